/**
 * How a call fails: one tree, a class for each `code` of the service, and three of the client's own.
 *
 *     AestheticError
 *     ├── InvalidRequest        invalid_request      the request does not keep the schema
 *     ├── UnknownVersion        unknown_version      `model_version` is not served
 *     ├── PayloadTooLarge       payload_too_large    the whole request is too large
 *     ├── ImageError
 *     │   ├── ImageTooLarge     image_too_large      more pixels or bytes than allowed
 *     │   ├── ImageUndecodable  image_undecodable    damaged, no image, or of another format
 *     │   ├── ImageUrlForbidden image_url_forbidden  the service may not fetch this address
 *     │   └── ImageUnreachable  image_unreachable    the address gave no image
 *     ├── Unauthorized          unauthorized         a valid API key is needed
 *     ├── NotFound              not_found            the service has no such path
 *     ├── MethodNotAllowed      method_not_allowed
 *     ├── Unavailable
 *     │   ├── Overloaded        overloaded           too many requests at once
 *     │   ├── GpuUnavailable    gpu_unavailable      other services hold the GPU's memory
 *     │   └── ModelUnavailable  model_unavailable    the model does not run
 *     ├── DeadlineExceeded      deadline_exceeded    `timeoutMs` passed, here or in the service
 *     ├── Internal              internal             a defect of the service
 *     ├── UnexpectedAnswer      unexpected_answer    somebody else answered: a proxy, another service
 *     └── ConnectionFailed      connection_failed    nobody answered
 *
 * A call that is aborted by its `signal` rejects with the signal's own reason, as `fetch` does.
 */
import type { FailedCandidate } from "@lilith/imajin-aesthetic-types";

/** What an error tells besides its message. */
export interface ErrorDetails {
  /** What went wrong, for programs; a newer service may have codes that are not listed here. */
  readonly code: string;
  /** What went wrong, for people. */
  readonly detail: string;
  /** The HTTP status; undefined where there was no answer. */
  readonly status?: number | undefined;
  /** Whether the same request may succeed later. */
  readonly retryable?: boolean;
  /** When to come back at the earliest, where the service said so. */
  readonly retryAfterMs?: number | undefined;
  /** What the service's log calls the request. */
  readonly requestId?: string | undefined;
  /** The candidates of a batch of which none could be scored. */
  readonly failed?: readonly FailedCandidate[];
  readonly cause?: unknown;
}

/** Root of the tree, and the class of a code that this client does not know. */
export class AestheticError extends Error implements ErrorDetails {
  readonly code: string;
  readonly detail: string;
  readonly status: number | undefined;
  readonly retryable: boolean;
  readonly retryAfterMs: number | undefined;
  readonly requestId: string | undefined;
  readonly failed: readonly FailedCandidate[];

  constructor(details: ErrorDetails) {
    super(`${details.code}: ${details.detail}`, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    this.code = details.code;
    this.detail = details.detail;
    this.status = details.status;
    this.retryable = details.retryable ?? false;
    this.retryAfterMs = details.retryAfterMs;
    this.requestId = details.requestId;
    this.failed = details.failed ?? [];
  }
}

export class InvalidRequest extends AestheticError {}
export class UnknownVersion extends AestheticError {}
export class PayloadTooLarge extends AestheticError {}
export class ImageError extends AestheticError {}
export class ImageTooLarge extends ImageError {}
export class ImageUndecodable extends ImageError {}
export class ImageUrlForbidden extends ImageError {}
export class ImageUnreachable extends ImageError {}
export class Unauthorized extends AestheticError {}
export class NotFound extends AestheticError {}
export class MethodNotAllowed extends AestheticError {}
export class Unavailable extends AestheticError {}
export class Overloaded extends Unavailable {}
export class GpuUnavailable extends Unavailable {}
export class ModelUnavailable extends Unavailable {}
export class DeadlineExceeded extends AestheticError {}
export class Internal extends AestheticError {}
export class UnexpectedAnswer extends AestheticError {}
export class ConnectionFailed extends AestheticError {}

const CLASSES: ReadonlyMap<string, typeof AestheticError> = new Map(
  Object.entries({
    invalid_request: InvalidRequest,
    unknown_version: UnknownVersion,
    payload_too_large: PayloadTooLarge,
    image_too_large: ImageTooLarge,
    image_undecodable: ImageUndecodable,
    image_url_forbidden: ImageUrlForbidden,
    image_unreachable: ImageUnreachable,
    unauthorized: Unauthorized,
    not_found: NotFound,
    method_not_allowed: MethodNotAllowed,
    overloaded: Overloaded,
    gpu_unavailable: GpuUnavailable,
    model_unavailable: ModelUnavailable,
    deadline_exceeded: DeadlineExceeded,
    internal: Internal,
    unexpected_answer: UnexpectedAnswer,
    connection_failed: ConnectionFailed,
  }),
);

/** Make the error of a code; a newer service's code, unknown here, gives an `AestheticError`. */
export function errorOf(details: ErrorDetails): AestheticError {
  return new (CLASSES.get(details.code) ?? AestheticError)(details);
}
