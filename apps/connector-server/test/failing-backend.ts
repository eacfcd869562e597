import {
  type BatchResult,
  type BlockBatch,
  type ErrorCode,
  MemoryBackend,
  Outcome,
  uniformResult,
} from "@kvferry/core";

/** A stand-in for a storage that answers lookups and takes nothing: each store fails, with this code. */
export class FailingBackend extends MemoryBackend {
  readonly #code: ErrorCode;

  constructor(code: ErrorCode) {
    super();
    this.#code = code;
  }

  protected override async _store({ keys }: BlockBatch): Promise<BatchResult> {
    return uniformResult(keys.count, Outcome.FAILED, this.#code);
  }
}
