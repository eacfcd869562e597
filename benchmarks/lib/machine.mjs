import { cpus, loadavg, release, totalmem } from "node:os";

/** What a report says of where it was measured. */
export function machine() {
  const [first] = cpus();
  return {
    cpu: first?.model,
    cores: cpus().length,
    memoryBytes: totalmem(),
    kernel: release(),
    node: process.version,
    loadAverage: loadavg(),
  };
}
