export {
  type ClientRegion,
  type ConnectOptions,
  KvferryClient,
  type RequestOptions,
  type TransferResult,
} from "./client.js";
export { decodeClientMessage, decodeServerMessage, errorFromMessage } from "./decode.js";
export { encodeMessage, errorMessage } from "./encode.js";
export { encodeFrame, FrameDecoder } from "./frames.js";
export {
  DESCRIPTORS_MAX,
  FRAME_BYTES_MAX,
  FRAME_BYTES_MAX_BEFORE_HELLO,
  LOOKUP_KEYS_MAX,
  MESSAGE_DEPTH_MAX,
  MESSAGE_VALUES_MAX,
  PROTOCOL_VERSION,
  REQUEST_ID_MAX,
} from "./limits.js";
export type {
  CancelMessage,
  ClientIdentity,
  ClientMessage,
  DoneMessage,
  DrainMessage,
  ErrorMessage,
  Fragment,
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
