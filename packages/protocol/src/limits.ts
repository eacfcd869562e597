/** The bounds of docs/protocol.md, version 1. */

export const PROTOCOL_VERSION = 1;
/** Bytes of a frame's body. */
export const FRAME_BYTES_MAX: number = 16 * 2 ** 20;
/** The same before HELLO has been accepted: whoever has not said who it is gets little memory. */
export const FRAME_BYTES_MAX_BEFORE_HELLO: number = 2 ** 20;
/** Keys of a LOOKUP. */
export const LOOKUP_KEYS_MAX = 65_536;
/** Request ids are 0 to this. */
export const REQUEST_ID_MAX: number = 2 ** 32 - 1;
/** Descriptors that may wait for a frame to claim them. */
export const DESCRIPTORS_MAX = 16;
/** Values in one message, nested ones included. A value takes a byte of the frame and up to a hundred of memory. */
export const MESSAGE_VALUES_MAX = 65_536;
/** How deep maps and lists may be nested. */
export const MESSAGE_DEPTH_MAX = 16;

/** Characters of the text that names an engine in direct mode. */
export const ENGINE_NAME_LENGTH_MAX = 128;
/** Parts of a chunk, and workers of an engine. */
export const PARTS_MAX = 1024;
/** Memories of a worker; of shared ones as many as a message has descriptors. */
export const MEMORIES_MAX = 4096;
/** Tensors of a worker, and tensors that a group uses. */
export const TENSORS_MAX = 4096;
/** KV cache groups. */
export const GROUPS_MAX = 1024;
/** Pages of a tensor in a chunk. */
export const BLOCKS_PER_CHUNK_MAX = 65_536;
/** CUDA's own sizes: of a GPU's UUID and of an IPC handle. */
export const CUDA_UUID_BYTES = 16;
export const CUDA_HANDLE_BYTES = 64;
