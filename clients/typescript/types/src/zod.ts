// Generated from clients/openapi.json by scripts/zod.mjs; do not edit.
/** Zod schemas of requests, answers and errors, by the names of the OpenAPI document. */
import { z } from "zod";

/** One of the images to be ranked. */
export const Candidate = z.strictObject({
  /** http or https address of the image, 8192 characters at most; or a data: URI with base64, which is as large as image_base64 may be. */
  image_url: z.string().min(1).nullable().optional(),
  /** The image file in base64, or as a data: URI. */
  image_base64: z.string().min(1).nullable().optional(),
  /** Yours; it comes back with the score. */
  id: z.string().max(200).nullable().optional(),
}).refine((value) => Number(value.image_url != null) + Number(value.image_base64 != null) === 1, "exactly one of image_url and image_base64 is needed");
export type Candidate = z.infer<typeof Candidate>;

/** One prompt and its candidates; ten at most by default (see `/info`). */
export const BatchRequest = z.strictObject({
  /** What the image was meant to show. 35 tokens are read, as upstream does. */
  prompt: z.string().max(10000),
  /** Quality gate: `passed` says whether raw_score reaches it. */
  min_score: z.number().nullable().optional(),
  /** As `min_score`, for normalized_score. */
  min_normalized_score: z.number().gte(0).lte(1).nullable().optional(),
  /** A version that is served, see `/info`: it alone answers. By default the canary, where there is one, answers its share of the questions and the stable version the others. */
  model_version: z.union([z.int(), z.string().max(20)]).nullable().optional(),
  candidates: z.array(Candidate).min(1).max(64),
});
export type BatchRequest = z.infer<typeof BatchRequest>;

/** What was scored. */
export const ImageInfo = z.object({
  width: z.int(),
  height: z.int(),
  format: z.string(),
  sha256: z.string(),
});
export type ImageInfo = z.infer<typeof ImageInfo>;

/** One candidate's place. */
export const RankedCandidate = z.object({
  /** The model's reward, about -2 to +2. */
  raw_score: z.number(),
  /** Sigmoid of raw_score, 0 to 1. */
  normalized_score: z.number(),
  /** 100 * Phi(raw_score), the normal distribution's. */
  percentile: z.number(),
  /** Whether the score reaches every limit that was sent; null without one. */
  passed: z.boolean().nullable(),
  image: ImageInfo,
  /** The version that gave this score. */
  model_version: z.string(),
  cached: z.boolean(),
  /** 1 is best; equal scores share a rank. */
  rank: z.int(),
  /** Place in the request, from 0. */
  index: z.int(),
  id: z.string().nullable(),
});
export type RankedCandidate = z.infer<typeof RankedCandidate>;

/** What went wrong, for programs. */
export const ErrorCode = z.enum(["deadline_exceeded","gpu_unavailable","image_too_large","image_undecodable","image_unreachable","image_url_forbidden","internal","invalid_request","method_not_allowed","model_unavailable","not_found","overloaded","payload_too_large","unauthorized","unknown_version"]);
export type ErrorCode = z.infer<typeof ErrorCode>;

/** Why a candidate has no score. */
export const ErrorInfo = z.object({
  code: ErrorCode,
  detail: z.string(),
  /** Whether the same image may be scored later. */
  retryable: z.boolean(),
});
export type ErrorInfo = z.infer<typeof ErrorInfo>;

/** A candidate without a score. */
export const FailedCandidate = z.object({
  index: z.int(),
  id: z.string().nullable(),
  error: ErrorInfo,
});
export type FailedCandidate = z.infer<typeof FailedCandidate>;

/** What scored it; scores are comparable where all four are equal.

Where two versions answered one batch, this is the stable one: each result names its own. */
export const ModelInfo = z.object({
  name: z.string(),
  version: z.string(),
  weights_sha256: z.string(),
  preprocessing: z.string(),
});
export type ModelInfo = z.infer<typeof ModelInfo>;

/** Answer of `/score-batch`; `results` is sorted, best first. */
export const BatchResponse = z.object({
  best_candidate: RankedCandidate,
  results: z.array(RankedCandidate),
  failed: z.array(FailedCandidate),
  prompt_tokens: z.int(),
  prompt_truncated: z.boolean(),
  model: ModelInfo,
  processing_time_ms: z.number(),
});
export type BatchResponse = z.infer<typeof BatchResponse>;

/** One prompt and its candidates, as a form. */
export const BatchUpload = z.strictObject({
  /** What the image was meant to show. 35 tokens are read, as upstream does. */
  prompt: z.string().max(10000),
  /** Quality gate: `passed` says whether raw_score reaches it. */
  min_score: z.number().nullable().optional(),
  /** As `min_score`, for normalized_score. */
  min_normalized_score: z.number().gte(0).lte(1).nullable().optional(),
  /** A version that is served, see `/info`: it alone answers. By default the canary, where there is one, answers its share of the questions and the stable version the others. */
  model_version: z.union([z.int(), z.string().max(20)]).nullable().optional(),
  /** A file for each candidate, in a field of this name or of the name `image`. */
  images: z.array(z.string()).min(1).max(64),
});
export type BatchUpload = z.infer<typeof BatchUpload>;

/** Where the model stands on a GPU that is shared. */
export const Gpu = z.object({
  /** unloaded, reserving, loading, ready or unloading */
  state: z.string(),
  /** The ledger's name for it. */
  gpu: z.string(),
  lease_id: z.string().nullable(),
  /** The fencing token, while a lease is held. */
  fence: z.int().nullable(),
  /** The frontend that loads and unloads the model for all of its Triton. */
  keeper: z.string().nullable(),
  priority: z.int(),
  /** Claimed by this frontend, in MiB. */
  vram_mb: z.int().nullable(),
  /** How long the lease lasts if no heartbeat succeeds. */
  expires_in_s: z.number().nullable(),
  /** Going on without a lease, by fail_open. */
  unprotected: z.boolean(),
  /** ok, or why the ledger was not reached the last time */
  ledger: z.string(),
});
export type Gpu = z.infer<typeof Gpu>;

/** The state of one part of the service. */
export const Part = z.object({
  status: z.enum(["ok","failing"]),
  detail: z.string(),
});
export type Part = z.infer<typeof Part>;

/** Answer of `/health`. */
export const HealthResponse = z.object({
  status: z.enum(["ready","unavailable"]),
  parts: z.record(z.string(), Part),
});
export type HealthResponse = z.infer<typeof HealthResponse>;

/** One of the versions that are served. */
export const VersionInfo = z.object({
  version: z.string(),
  /** stable, canary (answers its share), or shadow (is only compared) */
  role: z.string(),
  /** Of the questions that it is asked, 0 to 1. */
  share: z.number(),
  /** Whether Triton has it ready. */
  loaded: z.boolean(),
  name: z.string(),
  weights_sha256: z.string(),
  precision: z.string(),
  runtime: z.string(),
  published_at: z.string(),
  /** Summary of what it had to pass before it was published; null: nothing. */
  gates: z.record(z.string(), z.unknown()).nullable(),
});
export type VersionInfo = z.infer<typeof VersionInfo>;

/** What a request may ask for; what an operator may choose of it is read from the settings. */
export const Limits = z.object({
  max_candidates: z.int(),
  max_image_bytes: z.int(),
  max_pixels: z.int(),
  max_body_bytes: z.int(),
  max_prompt_characters: z.int(),
  max_prompt_tokens: z.int(),
  request_timeout_s: z.number(),
  max_request_timeout_s: z.number(),
  formats: z.array(z.string()),
  fetch: z.string(),
});
export type Limits = z.infer<typeof Limits>;

/** How to read a score. */
export const Scale = z.object({
  raw_score: z.string(),
  normalized_score: z.string(),
  percentile: z.string(),
});
export type Scale = z.infer<typeof Scale>;

/** Answer of `/info`; what is said of the model at the top is the stable version's. */
export const InfoResponse = z.object({
  service: z.string(),
  service_version: z.string(),
  model: ModelInfo,
  /** All that are served, stable first. */
  versions: z.array(VersionInfo),
  precision: z.string(),
  runtime: z.string(),
  /** cpu or gpu; null while the model is not loaded. */
  device: z.string().nullable(),
  published_at: z.string(),
  triton_version: z.string(),
  /** none, model-boss, or the ledger that takes its place */
  gpu_coordination: z.string(),
  /** null without coordination */
  gpu: Gpu.nullable(),
  limits: Limits,
  scale: Scale,
});
export type InfoResponse = z.infer<typeof InfoResponse>;

/** Answer of `/health/live`. */
export const LiveResponse = z.object({
  status: z.literal("live"),
});
export type LiveResponse = z.infer<typeof LiveResponse>;

/** An error, as application/problem+json (RFC 9457). */
export const Problem = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  code: ErrorCode,
  detail: z.string(),
  /** Whether the same request may succeed later. */
  retryable: z.boolean(),
  request_id: z.string(),
  failed: z.array(FailedCandidate).nullable().optional(),
});
export type Problem = z.infer<typeof Problem>;

/** One image and its prompt. */
export const ScoreRequest = z.strictObject({
  /** What the image was meant to show. 35 tokens are read, as upstream does. */
  prompt: z.string().max(10000),
  /** Quality gate: `passed` says whether raw_score reaches it. */
  min_score: z.number().nullable().optional(),
  /** As `min_score`, for normalized_score. */
  min_normalized_score: z.number().gte(0).lte(1).nullable().optional(),
  /** A version that is served, see `/info`: it alone answers. By default the canary, where there is one, answers its share of the questions and the stable version the others. */
  model_version: z.union([z.int(), z.string().max(20)]).nullable().optional(),
  /** http or https address of the image, 8192 characters at most; or a data: URI with base64, which is as large as image_base64 may be. */
  image_url: z.string().min(1).nullable().optional(),
  /** The image file in base64, or as a data: URI. */
  image_base64: z.string().min(1).nullable().optional(),
}).refine((value) => Number(value.image_url != null) + Number(value.image_base64 != null) === 1, "exactly one of image_url and image_base64 is needed");
export type ScoreRequest = z.infer<typeof ScoreRequest>;

/** Answer of `/score`. */
export const ScoreResponse = z.object({
  /** The model's reward, about -2 to +2. */
  raw_score: z.number(),
  /** Sigmoid of raw_score, 0 to 1. */
  normalized_score: z.number(),
  /** 100 * Phi(raw_score), the normal distribution's. */
  percentile: z.number(),
  /** Whether the score reaches every limit that was sent; null without one. */
  passed: z.boolean().nullable(),
  image: ImageInfo,
  /** The version that gave this score. */
  model_version: z.string(),
  cached: z.boolean(),
  prompt_tokens: z.int(),
  prompt_truncated: z.boolean(),
  model: ModelInfo,
  processing_time_ms: z.number(),
});
export type ScoreResponse = z.infer<typeof ScoreResponse>;
