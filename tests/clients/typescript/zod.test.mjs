// The Zod schemas refuse what the service refuses.
import assert from "node:assert/strict";
import { test } from "node:test";

import { schemas } from "./package_under_test.mjs";

const url = "https://example.com/1.png";

test("a request has exactly one source of its image", () => {
  const { ScoreRequest, BatchRequest } = schemas;
  ScoreRequest.parse({ prompt: "x", image_url: url });
  ScoreRequest.parse({ prompt: "x", image_base64: "eA==", image_url: null });
  assert(!ScoreRequest.safeParse({ prompt: "x" }).success);
  assert(!ScoreRequest.safeParse({ prompt: "x", image_url: url, image_base64: "eA==" }).success);
  assert(!BatchRequest.safeParse({ prompt: "x", candidates: [{ id: "1" }] }).success);
  assert(!BatchRequest.safeParse({ prompt: "x", candidates: [] }).success);
});

test("a request has no field that the service does not know", () => {
  assert(!schemas.ScoreRequest.safeParse({ prompt: "x", image_url: url, imageUrl: url }).success);
});

test("an answer may have fields that a newer service adds", () => {
  assert(schemas.HealthResponse.safeParse({ status: "ready", parts: {}, new: 1 }).success);
});
