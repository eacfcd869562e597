// A reporter for node's test runner: a line of JSON for each test.
// biome-ignore lint/style/noDefaultExport: node takes a reporter so
export default async function* lines(events) {
  for await (const { type, data } of events) {
    if (type !== "test:pass" && type !== "test:fail") continue;
    if (data.details?.type === "suite") continue;
    const error = data.details?.error?.cause ?? data.details?.error;
    const skipped = data.skip !== undefined;
    const text = String(error?.stack ?? error ?? "");
    yield `${JSON.stringify({ name: data.name, passed: type === "test:pass", skipped, error: text })}\n`;
  }
}
