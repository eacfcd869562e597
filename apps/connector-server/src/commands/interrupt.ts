import { constants } from "node:os";
import { EXIT_SIGNALLED } from "./exit-codes.js";

/** The first SIGINT or SIGTERM aborts the signal, so that the command ends in order; a second one ends the process. `code` is the exit
 * code of an interrupted command. */
export function onInterrupt(): { readonly signal: AbortSignal; code(): number | undefined } {
  const controller = new AbortController();
  let code: number | undefined;
  const handler = (name: NodeJS.Signals): void => {
    if (code !== undefined) process.exit(code);
    code = EXIT_SIGNALLED + constants.signals[name];
    controller.abort();
  };
  process.on("SIGINT", handler);
  process.on("SIGTERM", handler);
  return { signal: controller.signal, code: () => code };
}
