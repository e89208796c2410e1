/** What came back: an answer, or a problem. */
import type { FailedCandidate, Problem } from "@lilith/imajin-aesthetic-types";

import { type AestheticError, errorOf, UnexpectedAnswer } from "./errors.js";
import { parseRetryAfter } from "./retries.js";

/** A response, read to its end. */
export interface Reply {
  status: number;
  headers: Headers;
  text: string;
}

const RETRYABLE_STATUSES: readonly number[] = [429, 502, 503, 504];

/**
 * Read the answer, known by a field that it has; undefined where an error stands in its place, as a
 * 503 of `/health` may have it.
 */
export function answerOf(reply: Reply, field: string): object | undefined {
  const answer = objectOf(reply.text);
  if (answer !== undefined && field in answer) return answer;
  if (reply.status !== 200) return undefined;
  throw new UnexpectedAnswer({
    code: "unexpected_answer",
    detail: `status 200, but no answer with ${field}`,
    status: 200,
    requestId: reply.headers.get("x-request-id") ?? undefined,
  });
}

/** Read an error; one that is no problem document is somebody else's. */
export function problemOf(reply: Reply): AestheticError {
  const retryAfterMs = parseRetryAfter(reply.headers.get("retry-after"));
  const requestId = reply.headers.get("x-request-id") ?? undefined;
  const byStatus = RETRYABLE_STATUSES.includes(reply.status);
  const problem = objectOf(reply.text) as Partial<Problem> | undefined;
  if (typeof problem?.code !== "string" || typeof problem.detail !== "string") {
    return new UnexpectedAnswer({
      code: "unexpected_answer",
      detail: `status ${reply.status}, and no error of imajin-aesthetic`,
      status: reply.status,
      retryable: byStatus,
      retryAfterMs,
      requestId,
    });
  }
  return errorOf({
    code: problem.code,
    detail: problem.detail,
    status: reply.status,
    retryable: typeof problem.retryable === "boolean" ? problem.retryable : byStatus,
    retryAfterMs,
    requestId: problem.request_id ?? requestId,
    failed: (problem.failed ?? []) as FailedCandidate[],
  });
}

function objectOf(text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
