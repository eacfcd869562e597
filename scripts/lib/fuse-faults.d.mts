export interface FuseFaults {
  /** The mount. */
  readonly folder: string;
  /** What it shows. */
  readonly backing: string;
  /** Lines "operation errno probability delay_ms" from now on. */
  faults(...lines: readonly string[]): void;
  /** From now on the mount hangs. */
  stop(): Promise<void>;
  resume(): void;
  unmount(): Promise<void>;
}

export function fuseProblem(): string | undefined;
export function mountFuseFaults(): Promise<FuseFaults>;
