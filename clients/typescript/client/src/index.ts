/** Ask an imajin-aesthetic service how well images answer their prompts. */
export { AestheticClient } from "./client.js";
export type { BatchInput, CallOptions, CandidateInput, ClientOptions, ScoreInput } from "./client.js";
export type { Clock } from "./clock.js";
export {
  AestheticError,
  ConnectionFailed,
  DeadlineExceeded,
  GpuUnavailable,
  ImageError,
  ImageTooLarge,
  ImageUndecodable,
  ImageUnreachable,
  ImageUrlForbidden,
  Internal,
  InvalidRequest,
  MethodNotAllowed,
  ModelUnavailable,
  NotFound,
  Overloaded,
  PayloadTooLarge,
  Unauthorized,
  Unavailable,
  UnexpectedAnswer,
  UnknownVersion,
} from "./errors.js";
export type { ErrorDetails } from "./errors.js";
export type { ImageBytes, ImageSource } from "./images.js";
export type { Retries } from "./retries.js";
export type * from "@lilith/imajin-aesthetic-types";
