import type { WarmingMessage, WarmMessage } from "@kvferry/protocol";
import type { Warmer, WarmStatus } from "./warmer.js";

const TELL_MS = 200;

/** Warms as a client asks, and tells it how far it is.
 * @throws KvferryError as `Warmer.run`. */
export async function answerWarm(
  { bytes, rate, namespace }: WarmMessage,
  warmer: Warmer,
  signal: AbortSignal,
  send: (message: WarmingMessage) => void,
): Promise<void> {
  const options = { bytesMax: bytes ?? undefined, rateBytesMax: rate ?? undefined, namespace };
  const running = warmer.run("command", options, signal);
  const telling = setInterval(() => {
    if (warmer.status !== undefined) send(messageOf(warmer.status, false));
  }, TELL_MS);
  try {
    send(messageOf(await running, true));
  } finally {
    clearInterval(telling);
  }
}

function messageOf({ state, seconds, counts, tiers }: WarmStatus, done: boolean): WarmingMessage {
  return { t: "warming", done, state, ms: Math.round(seconds * 1000), counts: { ...counts }, tiers };
}
