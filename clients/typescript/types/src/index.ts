/** What an imajin-aesthetic service takes and answers, by the names that people use. */
import type { components, operations, paths } from "./openapi.js";

export type { components, operations, paths };

type Schemas = components["schemas"];

/** Body of `POST /score`. */
export type ScoreRequest = Schemas["ScoreRequest"];
/** Body of `POST /score-batch`. */
export type BatchRequest = Schemas["BatchRequest"];
/** One of the images to be ranked. */
export type Candidate = Schemas["Candidate"];
/** Answer of `POST /score`. */
export type ScoreResponse = Schemas["ScoreResponse"];
/** Answer of `POST /score-batch`; `results` is sorted, best first. */
export type BatchResponse = Schemas["BatchResponse"];
/** One candidate's place. */
export type RankedCandidate = Schemas["RankedCandidate"];
/** A candidate without a score. */
export type FailedCandidate = Schemas["FailedCandidate"];
/** Answer of `GET /info`. */
export type InfoResponse = Schemas["InfoResponse"];
/** Answer of `GET /health`. */
export type HealthResponse = Schemas["HealthResponse"];
/** An error, as application/problem+json (RFC 9457). */
export type Problem = Schemas["Problem"];
/** What went wrong, for programs. */
export type ErrorCode = Schemas["ErrorCode"];
/** What scored; scores are comparable where all four are equal. */
export type ModelInfo = Schemas["ModelInfo"];
/** What was scored. */
export type ImageInfo = Schemas["ImageInfo"];
