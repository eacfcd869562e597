/** One read of a slow tier that others wait for instead of reading the same blocks. */
export interface Flight {
  /** In the map, for each row that it reads; 1 or more. */
  readonly number: number;
  /** Settles when the read has ended, however it ended. */
  readonly landed: Promise<void>;
  land(): void;
}

/** The reads under way, by number. */
export class Flights {
  readonly #flights: Map<number, Flight> = new Map();
  #last = 0;

  begin(): Flight {
    this.#last = (this.#last % 0x7fffffff) + 1;
    const number = this.#last;
    let resolve = (): void => {};
    const landed = new Promise<void>((done) => {
      resolve = done;
    });
    const flight: Flight = {
      number,
      landed,
      land: () => {
        this.#flights.delete(number);
        resolve();
      },
    };
    this.#flights.set(number, flight);
    return flight;
  }

  get(number: number): Flight | undefined {
    return this.#flights.get(number);
  }
}
