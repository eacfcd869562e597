export interface S3Server {
  readonly name: string;
  readonly binary: string;
  readonly data: string;
  readonly port: number;
  readonly credentials: { readonly accessKeyId: string; readonly secretAccessKey: string };
  readonly region: string;
  readonly endpoint: string;
  pause(): void;
  resume(): void;
  stop(): Promise<void>;
}

export const S3_SERVER_NAMES: readonly string[];
export function s3ServerBinary(name: string): string | undefined;
export function buildS3Servers(options?: { log?: (line: string) => void }): Promise<void>;
export function startS3Server(name: string, options?: { parent?: string }): Promise<S3Server>;
