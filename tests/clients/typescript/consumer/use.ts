// What a stranger writes, compiled under strict in both module systems.
import {
  AestheticClient,
  AestheticError,
  ImageUndecodable,
  type BatchResponse,
  type ScoreResponse,
} from "@lilith/imajin-aesthetic-client";
import type { components, Problem } from "@lilith/imajin-aesthetic-types";
import * as schemas from "@lilith/imajin-aesthetic-types/zod";
import type { z } from "zod";

export async function run(baseUrl: string, image_url: string, image_base64: string): Promise<number> {
  const client = new AestheticClient({ baseUrl });
  const prompt = "a red square";
  const result: ScoreResponse = await client.score({ image_url, prompt });
  const numbers: number[] = [result.raw_score, result.normalized_score, result.processing_time_ms];
  const ranked: BatchResponse = await client.scoreBatch({ prompt, candidates: [{ image_base64 }, { image_url, id: "b" }] });
  const best: number | undefined = ranked.results.find((one) => one.rank === ranked.best_candidate.rank)?.raw_score;
  await client.score({ image: new Uint8Array(3), prompt, min_score: 0.5 }, { timeoutMs: 1000, signal: new AbortController().signal });
  await client.scoreBatch({ prompt, candidates: [{ image: new Blob([]) }] });
  return (best ?? 0) + numbers.length;
}

export function explain(error: unknown): string {
  if (error instanceof ImageUndecodable) return `not an image: ${error.detail}`;
  return error instanceof AestheticError ? `${error.code} ${error.status ?? ""} ${error.retryAfterMs ?? 0}` : "?";
}

export async function refused(client: AestheticClient): Promise<void> {
  // @ts-expect-error - no image
  await client.score({ prompt: "x" });
  // @ts-expect-error - two images
  await client.score({ prompt: "x", image_url: "a", image_base64: "b" });
  // @ts-expect-error - no such field
  await client.score({ prompt: "x", imageUrl: "a" });
}

// The Zod schemas and the types are of one document: each can stand for the other.
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;
type Full<T> = { [K in keyof T]-?: Exclude<T[K], undefined> };
type Schemas = components["schemas"];
export const same: true[] = [
  true satisfies Same<z.infer<typeof schemas.ScoreResponse>, Schemas["ScoreResponse"]>,
  true satisfies Same<z.infer<typeof schemas.BatchResponse>, Schemas["BatchResponse"]>,
  true satisfies Same<z.infer<typeof schemas.InfoResponse>, Schemas["InfoResponse"]>,
  true satisfies Same<z.infer<typeof schemas.HealthResponse>, Schemas["HealthResponse"]>,
  true satisfies Same<Full<z.infer<typeof schemas.Problem>>, Full<Schemas["Problem"]>>,
  true satisfies Same<Full<z.infer<typeof schemas.Candidate>>, Full<Schemas["Candidate"]>>,
  true satisfies Same<z.infer<typeof schemas.ErrorCode>, Problem["code"]>,
];
