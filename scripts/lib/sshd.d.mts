export interface Sshd {
  readonly folder: string;
  readonly host: string;
  readonly port: number;
  readonly user: string;
  /** Private key of the user; the public one has `.pub`. */
  readonly keyFile: string;
  readonly hostKeyFile: string;
  /** Fingerprint: `SHA256:…`. */
  readonly hostKey: string;
  /** Type and key, as in a known_hosts file. */
  readonly hostKeyLine: string;
  /** Kills, stops or continues what serves the connections; the server itself goes on. */
  signalSessions(signal?: "SIGKILL" | "SIGSTOP" | "SIGCONT"): void;
  stop(): Promise<void>;
}

export function sshdBinary(): string | undefined;
export function sftpServerBinary(): string | undefined;
export function startSshd(options?: {
  subsystem?: string;
  parent?: string;
  settings?: readonly string[];
}): Promise<Sshd>;
export function makeKey(file: string, passphrase?: string): Promise<void>;
