export {
  type CaseReport,
  type ConformanceOptions,
  conformance,
  conformanceCases,
  type RunOptions,
  runConformance,
  type TestContext,
  type TestFunctions,
} from "./conformance.js";
export type { BackendFactory, CreatedBackend, CreateOptions, DamageHookName, DamageHooks } from "./factory.js";
export {
  type FailOptions,
  type Fault,
  FaultyBackend,
  type FaultyOperation,
  type FaultyOptions,
} from "./faulty-backend.js";
export { seededBytes, seededRandom } from "./random.js";
