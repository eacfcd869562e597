import { KvferryError, toKvferryError } from "@kvferry/core";
import { closeFd, connectUnix } from "@kvferry/native";
import {
  decodeServerMessage,
  encodeMessage,
  errorFromMessage,
  FRAME_BYTES_MAX_BEFORE_HELLO,
  FrameDecoder,
  PROTOCOL_VERSION,
  type ServerMessage,
  type WarmingMessage,
  type WarmMessage,
} from "@kvferry/protocol";
import { resolveConfig } from "../config.js";
import { readConfigFile } from "../config-file.js";
import { bytesText } from "../sizes.js";
import { sizeOf } from "../storage/tier-config.js";
import type { WarmCounts } from "../warm/warm-run.js";
import { EXIT_FAILED } from "./exit-codes.js";
import { onInterrupt } from "./interrupt.js";
import { Progress } from "./progress.js";

export interface WarmFlags {
  readonly config?: string;
  readonly socket?: string;
  readonly bytes?: string;
  /** Bytes a second: "1GiB" or "1GiB/s". */
  readonly rate?: string;
  /** First digits of a digest. */
  readonly namespace?: string;
  readonly json?: boolean;
}

interface Facts extends Pick<WarmingMessage, "state" | "tiers"> {
  readonly seconds: number;
  readonly counts: Readonly<Partial<WarmCounts>>;
}

/** Has a running server warm its upper tiers, until it is done or interrupted. Exit code 1 if there were damaged blocks, or some could not be moved.
 * @throws KvferryError UNAVAILABLE if no server answers at the socket. */
export async function warm(flags: WarmFlags): Promise<void> {
  const message: WarmMessage = {
    t: "warm",
    version: PROTOCOL_VERSION,
    bytes: sizeOf("--bytes", flags.bytes) ?? null,
    rate: sizeOf("--rate", flags.rate?.replace(/\/s$/, "")) ?? null,
    namespace: digitsOf(flags.namespace),
  };
  const { socket } = resolveConfig({
    ...(flags.config === undefined ? {} : readConfigFile(flags.config)),
    ...(flags.socket === undefined ? {} : { socket: flags.socket }),
  });
  const interrupt = onInterrupt();
  const progress = new Progress(flags.json !== true);
  const last = await ask(socket, message, interrupt.signal, ({ state, counts }) => {
    const { loadedBlocks = 0, loadedBytes = 0, listedBlocks = 0 } = counts;
    if (state === "listing") progress.show("listing", listedBlocks, 0, "blocks");
    else progress.show("warming", loadedBytes, message.bytes ?? 0, `${loadedBlocks} blocks, ${bytesText(loadedBytes)}`);
  }).finally(() => progress.end());
  const { counts, tiers } = last;
  const [state, seconds] = [interrupt.signal.aborted ? "stopped" : last.state, last.ms / 1000];
  if (flags.json === true) process.stdout.write(`${JSON.stringify({ state, seconds, ...counts, tiers }, null, 2)}\n`);
  else process.stdout.write(`${warmText({ state, seconds, counts, tiers })}\n`);
  const { corruptBlocks = 0, failedBlocks = 0, skippedNamespaces = 0 } = counts;
  const bad = state === "failed" || corruptBlocks + failedBlocks + skippedNamespaces > 0;
  process.exitCode = interrupt.code() ?? (bad ? EXIT_FAILED : 0);
}

const ENDS: Readonly<Record<string, string>> = {
  done: "all that is stored",
  full: "there is no more room",
  bytes: "as many bytes as were asked for",
  stopped: "stopped",
  failed: "the storage fails; kvferry status tells more",
};

/** How a warming stands, in a line. */
export function warmText({ state, seconds, counts, tiers }: Facts): string {
  const { loadedBlocks = 0, loadedBytes = 0, presentBlocks = 0, ...rest } = counts;
  const rate = seconds > 0 && loadedBytes > 0 ? ` at ${bytesText(loadedBytes / seconds)}/s` : "";
  const by = Object.entries(tiers).map(([name, blocks]) => `${name} ${blocks}`);
  const more = [
    [rest.leftOutBlocks, "left for the next run"],
    [rest.missedBlocks, "gone meanwhile"],
    [rest.corruptBlocks, "damaged, set aside"],
    [rest.droppedBlocks, "refused"],
    [rest.failedBlocks, "failed"],
    [rest.skippedNamespaces, "namespaces not opened"],
  ].flatMap(([count = 0, what]) => ((count as number) > 0 ? [`${count} ${what}`] : []));
  const into = by.length === 0 ? "" : ` (${by.join(", ")})`;
  return [
    `${loadedBlocks} blocks, ${bytesText(loadedBytes)}${rate}${into}, ${presentBlocks} were there`,
    ...more,
    ENDS[state] ?? state,
  ].join(", ");
}

function digitsOf(text = ""): string {
  if (/^[0-9a-f]{0,64}$/i.test(text)) return text;
  throw wrong(
    "--namespace",
    `takes the first hex digits of a digest, as kvferry inspect --stats shows them, got '${text}'`,
  );
}

function wrong(field: string, reason: string): KvferryError {
  return new KvferryError("CONFIG_INVALID", `${field} ${reason}`, { operation: "config", context: { field } });
}

/** Sends WARM, and listens until the server is done. An abort ends the stream, and with it the warming. */
function ask(
  socket: string,
  message: WarmMessage,
  signal: AbortSignal,
  onProgress: (message: WarmingMessage) => void,
): Promise<WarmingMessage> {
  const decoder = new FrameDecoder(FRAME_BYTES_MAX_BEFORE_HELLO);
  let last: WarmingMessage = { t: "warming", done: false, state: "listing", ms: 0, counts: {}, tiers: {} };
  let close = (): void => {};
  return new Promise<WarmingMessage>((resolve, reject) => {
    const take = (answer: ServerMessage): void => {
      if (answer.t === "error") reject(remoteError(errorFromMessage(answer)));
      if (answer.t !== "warming") return;
      last = answer;
      onProgress(answer);
      if (answer.done) resolve(answer);
    };
    const connection = connectTo(socket, {
      onData(bytes, fds) {
        for (const fd of fds) closeFd(fd);
        decoder.push(bytes);
        for (let body = decoder.next(); body !== undefined; body = decoder.next()) take(decodeServerMessage(body));
      },
      onClose: () =>
        reject(new KvferryError("UNAVAILABLE", `the server at ${socket} has ended`, { operation: "warm" })),
    });
    close = () => connection.close();
    signal.addEventListener("abort", () => resolve(last), { once: true });
    if (signal.aborted) resolve(last);
    else connection.send(encodeMessage(message));
  }).finally(() => close());
}

function connectTo(...[socket, handlers]: Parameters<typeof connectUnix>): ReturnType<typeof connectUnix> {
  try {
    return connectUnix(socket, handlers);
  } catch (cause) {
    const { message } = toKvferryError(cause, "warm");
    throw new KvferryError("UNAVAILABLE", `no kvferry serves at ${socket}: ${message}; give its --socket or --config`, {
      operation: "warm",
      cause,
    });
  }
}

function remoteError(error: KvferryError): KvferryError {
  const { field } = error.context;
  if (field === "namespace")
    return wrong("--namespace", `: ${error.message}; kvferry inspect --stats shows what is stored`);
  if (error.code === "PROTOCOL")
    return new KvferryError("UNSUPPORTED", `the server is older than this command: ${error.message}`);
  return error;
}
