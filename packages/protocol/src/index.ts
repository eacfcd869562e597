export {
  type ClientRegion,
  type ConnectOptions,
  KvferryClient,
  type TransferResult,
} from "./client.js";
export { decodeClientMessage, decodeServerMessage, errorFromMessage } from "./decode.js";
export {
  type Chunks,
  type DirectConnectOptions,
  DirectSchedulerClient,
  DirectWorkerClient,
  type HoldResult,
  type SchedulerConnectOptions,
  type WorkerConnectOptions,
} from "./direct-client.js";
export {
  type ChunksFields,
  type DirectEngineFields,
  type DirectGroupTensor,
  type DirectHelloMessage,
  type DirectMemory,
  type DirectScheduler,
  type DirectTensor,
  type DirectWelcome,
  type DirectWorker,
  type GatherMessage,
  type HeldMessage,
  type HoldMessage,
  NO_BLOCK,
  type ReleaseMessage,
  type ScatterMessage,
  type StoredMessage,
} from "./direct-messages.js";
export { encodeMessage, errorMessage } from "./encode.js";
export { encodeFrame, FrameDecoder } from "./frames.js";
export {
  DESCRIPTORS_MAX,
  ENGINE_NAME_LENGTH_MAX,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MAX_BEFORE_HELLO,
  LOOKUP_KEYS_MAX,
  MESSAGE_DEPTH_MAX,
  MESSAGE_VALUES_MAX,
  PROTOCOL_VERSION,
  REQUEST_ID_MAX,
} from "./limits.js";
export type { RequestOptions } from "./link.js";
export type {
  CancelMessage,
  ClientIdentity,
  ClientMessage,
  DirectRequestMessage,
  DoneMessage,
  DrainMessage,
  ErrorMessage,
  Fragment,
  HelloFields,
  HelloMessage,
  LoadMessage,
  LookupMessage,
  PingMessage,
  PongMessage,
  RegionDescription,
  RemovedMessage,
  RequestMessage,
  ServerMessage,
  StatesMessage,
  StoreMessage,
  VllmFsNames,
  WarmingMessage,
  WarmMessage,
  WelcomeMessage,
} from "./messages.js";
export { decodeBody, type WireMap, type WireValue } from "./msgpack.js";
export {
  type Connector,
  type FrameTransport,
  nativeTransport,
  netTransport,
  type TransportHandlers,
  type UnixSockets,
} from "./transport.js";
