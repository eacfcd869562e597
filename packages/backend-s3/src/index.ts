export { S3Backend } from "./backend.js";
export type { S3Config, S3Encryption } from "./config.js";
export { s3Manifest } from "./manifest.js";
export { probeS3, type S3Facts, type S3ProbeOptions, type S3Speed } from "./probe.js";
export { storedNamespaces } from "./stored-namespaces.js";
