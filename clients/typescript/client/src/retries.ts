/** Whether to ask again, and when. */

/**
 * How often one call asks, and how long it waits in between.
 *
 * A wait is half of `firstWaitMs * 2 ** n` and a random part of the other half, so that clients that
 * failed together do not come back together; `Retry-After` comes on top. A wait that would outlast
 * the call's `timeoutMs` is not begun: the call rejects at once.
 */
export interface Retries {
  /** 1: never ask again. */
  maxAttempts: number;
  firstWaitMs: number;
  /** Without what Retry-After asks for. */
  maxWaitMs: number;
}

export const DEFAULT_RETRIES: Readonly<Retries> = { maxAttempts: 4, firstWaitMs: 250, maxWaitMs: 8000 };

/** Say how long to wait after attempt number `attempt`, from 1; `random` is in [0, 1). */
export function waitMs(retries: Retries, attempt: number, retryAfterMs: number | undefined, random: number): number {
  const backoffMs = Math.min(retries.maxWaitMs, retries.firstWaitMs * 2 ** (attempt - 1));
  return (retryAfterMs ?? 0) + (backoffMs * (1 + random)) / 2;
}

/** Read the header, seconds or a date; what is neither counts as absent. */
export function parseRetryAfter(value: string | null): number | undefined {
  if (value === null) return undefined;
  const text = value.trim();
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const moment = /[A-Za-z]{3}/.test(text) ? Date.parse(text) : NaN;
  return Number.isNaN(moment) ? undefined : Math.max(0, moment - Date.now());
}
