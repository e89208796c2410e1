/** `AestheticClient`: one service, for Node 18 and later and for browsers. */
import type {
  BatchRequest,
  BatchResponse,
  HealthResponse,
  InfoResponse,
  ScoreRequest,
  ScoreResponse,
} from "@lilith/imajin-aesthetic-types";

import { type Clock, REAL_CLOCK } from "./clock.js";
import { answerOf, problemOf, type Reply } from "./answers.js";
import { type AestheticError, ConnectionFailed, DeadlineExceeded } from "./errors.js";
import { type ImageSource, written } from "./images.js";
import { DEFAULT_RETRIES, type Retries, waitMs } from "./retries.js";

/** What `score` takes: the service's own request, or bytes in the place of its image. */
export type ScoreInput = Omit<ScoreRequest, "image_url" | "image_base64"> & ImageSource;

/** One of the images to be ranked; `id` is yours and comes back with the score. */
export type CandidateInput = { id?: string | null } & ImageSource;

/** What `scoreBatch` takes. */
export type BatchInput = Omit<BatchRequest, "candidates"> & { candidates: readonly CandidateInput[] };

export interface ClientOptions {
  /** `http(s)://host[:port][/path]` of the service. */
  baseUrl: string;
  /** Where the service wants one. */
  apiKey?: string | undefined;
  /** How long one call may take, with all its retries; the service is told, too. 60 s by default. */
  timeoutMs?: number | undefined;
  retries?: Partial<Retries> | undefined;
  /** In the place of the global one. */
  fetch?: typeof fetch | undefined;
  /** For tests. */
  clock?: Clock | undefined;
}

export interface CallOptions {
  /** Ends the call; it rejects with the signal's reason. */
  signal?: AbortSignal | undefined;
  /** In the place of the client's. */
  timeoutMs?: number | undefined;
}

interface Call {
  method: "GET" | "POST";
  path: string;
  body?: unknown;
  /** With which there is an answer; 200 alone by default. */
  statuses?: readonly number[];
  /** A field that the answer has. */
  has: string;
}

const DEFAULT_TIMEOUT_MS = 60_000;
const MAX_TIMEOUT_MS = 999_999_999;
const MAX_TIMER_MS = 2 ** 31 - 1; // a longer one would fire at once

/** Every method rejects with an `AestheticError` (errors.ts has the tree) where there is no answer. */
export class AestheticClient {
  readonly baseUrl: string;
  readonly #apiKey: string | undefined;
  readonly #timeoutMs: number;
  readonly #retries: Retries;
  readonly #fetch: typeof fetch;
  readonly #clock: Clock;

  constructor(options: ClientOptions) {
    const url = new URL(options.baseUrl);
    if (!/^https?:$/.test(url.protocol) || url.search || url.hash || url.username) {
      throw new TypeError("baseUrl must be of the form http(s)://host[:port][/path]");
    }
    if (options.apiKey !== undefined && !/^[!-~]+$/.test(options.apiKey)) {
      throw new TypeError("apiKey has characters that no header can hold"); // and is not repeated here
    }
    this.baseUrl = url.href.replace(/\/+$/, "");
    this.#apiKey = options.apiKey;
    this.#timeoutMs = positive(options.timeoutMs ?? DEFAULT_TIMEOUT_MS);
    this.#retries = { ...DEFAULT_RETRIES, ...options.retries };
    this.#fetch = options.fetch ?? ((...parameters) => fetch(...parameters));
    this.#clock = options.clock ?? REAL_CLOCK;
  }

  /** Score one image against its prompt. */
  async score(input: ScoreInput, options: CallOptions = {}): Promise<ScoreResponse> {
    return this.#ask({ method: "POST", path: "/score", body: await written(input), has: "raw_score" }, options);
  }

  /**
   * Rank the candidates of one prompt; ten at most, where `info()` says nothing else.
   *
   * One that fails stands in `failed`. Where all fail, the error has that list.
   */
  async scoreBatch(input: BatchInput, options: CallOptions = {}): Promise<BatchResponse> {
    const body = { ...input, candidates: await Promise.all(input.candidates.map(written)) };
    return this.#ask({ method: "POST", path: "/score-batch", body, has: "results" }, options);
  }

  /** Say what is served, what may be asked for and how to read a score. */
  info(options: CallOptions = {}): Promise<InfoResponse> {
    return this.#ask({ method: "GET", path: "/info", has: "limits" }, options);
  }

  /** Say how the service and its parts are; an unhealthy one gives an answer, no error. */
  health(options: CallOptions = {}): Promise<HealthResponse> {
    return this.#ask({ method: "GET", path: "/health", statuses: [200, 503], has: "parts" }, options);
  }

  /** Ask until there is an answer, no more attempt is allowed, or the time is over. */
  async #ask<Answer>(call: Call, { signal, timeoutMs }: CallOptions): Promise<Answer> {
    const body = call.body === undefined ? undefined : JSON.stringify(call.body);
    const endsAt = this.#clock.now() + positive(timeoutMs ?? this.#timeoutMs);
    for (let attempt = 1; ; attempt += 1) {
      signal?.throwIfAborted();
      const outcome = await this.#send(call, body, endsAt - this.#clock.now(), signal);
      if ("text" in outcome && (call.statuses ?? [200]).includes(outcome.status)) {
        const answer = answerOf(outcome, call.has);
        if (answer !== undefined) return answer as Answer;
      }
      const error = "text" in outcome ? problemOf(outcome) : outcome;
      const pauseMs = waitMs(this.#retries, attempt, error.retryAfterMs, this.#clock.random());
      const isLast = attempt >= this.#retries.maxAttempts || this.#clock.now() + pauseMs >= endsAt;
      if (!error.retryable || isLast) throw error;
      await this.#clock.sleep(pauseMs, signal);
    }
  }

  /** Send one request and read its reply to the end, or say why there is none. */
  async #send(
    call: Call,
    body: string | undefined,
    remainingMs: number,
    signal: AbortSignal | undefined,
  ): Promise<Reply | AestheticError> {
    const ending = new AbortController();
    const abort = () => ending.abort();
    const timer = setTimeout(abort, Math.min(remainingMs, MAX_TIMER_MS));
    signal?.addEventListener("abort", abort, { once: true });
    try {
      const response = await this.#fetch(this.baseUrl + call.path, {
        method: call.method,
        headers: this.#headers(body, remainingMs),
        body: body ?? null,
        redirect: "manual",
        signal: ending.signal,
      });
      return { status: response.status, headers: response.headers, text: await response.text() };
    } catch (cause) {
      signal?.throwIfAborted();
      return ending.signal.aborted
        ? new DeadlineExceeded({ code: "deadline_exceeded", detail: "no answer came within timeoutMs", cause })
        : new ConnectionFailed({ code: "connection_failed", detail: reason(cause), retryable: true, cause });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  #headers(body: string | undefined, remainingMs: number): Record<string, string> {
    const headers: Record<string, string> = { Accept: "application/json" };
    if (this.#apiKey !== undefined) headers["X-API-Key"] = this.#apiKey;
    if (body !== undefined) {
      headers["Content-Type"] = "application/json";
      headers["X-Request-Timeout-Ms"] = String(Math.max(1, Math.min(MAX_TIMEOUT_MS, Math.floor(remainingMs))));
    }
    return headers;
  }
}

function positive(timeoutMs: number): number {
  if (timeoutMs > 0 && timeoutMs < Infinity) return timeoutMs;
  throw new RangeError("timeoutMs must be a positive number of milliseconds");
}

function reason(cause: unknown): string {
  const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause;
  return inner instanceof Error ? inner.message || inner.name : String(inner);
}
