// The TypeScript client against the running service, which has the demonstration model.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { checkout, client as api, schemas } from "./package_under_test.mjs";

const { AESTHETIC_URL: baseUrl, AESTHETIC_API_KEY: apiKey } = process.env;
const client = new api.AestheticClient({ baseUrl, apiKey });
const examples = new URL("examples/", checkout);
const [example] = JSON.parse(readFileSync(new URL("examples.json", examples), "utf8"));
const prompt = example.prompt;
const picture = (name) => readFileSync(new URL(name, examples));

test("every form of an image has one score", async () => {
  const buffer = picture(example.fitting);
  const forms = [
    buffer,
    new Uint8Array(buffer),
    buffer.buffer.slice(buffer.byteOffset, buffer.byteOffset + buffer.length),
    new Blob([buffer]),
  ].map((image) => ({ image }));
  forms.push({ image_base64: buffer.toString("base64") });
  forms.push({ image_base64: "data:image/jpeg;base64," + buffer.toString("base64") });
  const scores = await Promise.all(forms.map((form) => client.score({ prompt, ...form })));
  assert.equal(new Set(scores.map((score) => score.raw_score)).size, 1);
  assert(scores[0].raw_score > 1);
  scores.forEach((score) => schemas.ScoreResponse.parse(score));
});

test("a ranking has the fitting picture first, and the broken one in `failed`", async () => {
  const names = example.candidates.slice(0, 9).map((candidate) => candidate.file);
  const candidates = names.map((name) => ({ id: name, image: picture(name) }));
  const ranked = await client.scoreBatch({ prompt, candidates: [...candidates, { image: Buffer.from("no image") }] });
  assert.equal(ranked.best_candidate.id, example.fitting);
  assert.equal(ranked.results.length, 9);
  assert.deepEqual(ranked.failed.map(({ index, error }) => [index, error.code]), [[9, "image_undecodable"]]);
  schemas.BatchResponse.parse(ranked);
});

test("info and health", async () => {
  const info = schemas.InfoResponse.parse(await client.info());
  assert.match(info.model.name, /demonstration/);
  assert.equal(schemas.HealthResponse.parse(await client.health()).status, "ready");
});

test("errors have the class of their code", async () => {
  await assert.rejects(client.score({ prompt, image: Buffer.from("no image") }), (error) => {
    assert(error instanceof api.ImageUndecodable && error instanceof api.ImageError);
    assert(error.requestId);
    return true;
  });
  await assert.rejects(client.score({ prompt, image_url: "http://169.254.169.254/" }), api.ImageUrlForbidden);
  const stranger = new api.AestheticClient({ baseUrl, apiKey: "wrong" });
  await assert.rejects(stranger.info(), api.Unauthorized);
});

test("a large image is encoded as it is", async () => {
  const large = Buffer.alloc(3_000_001, "x");
  await assert.rejects(client.score({ prompt, image: large }), api.ImageUndecodable);
});

test("an aborted call rejects with the signal's reason, before, during and between requests", async () => {
  await assert.rejects(client.info({ signal: AbortSignal.abort(new Error("before")) }), /before/);
  const during = new AbortController();
  const call = client.score({ prompt, image: picture(example.fitting) }, { signal: during.signal });
  during.abort(new Error("during"));
  await assert.rejects(call, /during/);
  const between = new AbortController();
  const waiting = new api.AestheticClient({
    baseUrl,
    retries: { firstWaitMs: 20_000, maxWaitMs: 20_000 },
    fetch: async () => {
      setTimeout(() => between.abort(new Error("between")), 10);
      return new Response("", { status: 502 });
    },
  });
  await assert.rejects(waiting.info({ signal: between.signal }), /between/);
});

test("what cannot be sent is refused when the client is made", () => {
  assert.throws(() => new api.AestheticClient({ baseUrl: "ftp://host" }), TypeError);
  assert.throws(() => new api.AestheticClient({ baseUrl: "host:8006" }), TypeError);
  assert.throws(() => new api.AestheticClient({ baseUrl: "http://user:pw@host" }), TypeError);
  assert.throws(
    () => new api.AestheticClient({ baseUrl, apiKey: "sesame\n" }),
    (error) => error instanceof TypeError && !error.message.includes("sesame"),
  );
  assert.throws(() => new api.AestheticClient({ baseUrl, timeoutMs: 0 }), RangeError);
});

test("a service that is not there", async () => {
  const nobody = new api.AestheticClient({ baseUrl: "http://127.0.0.1:1", retries: { maxAttempts: 2, firstWaitMs: 1 } });
  await assert.rejects(nobody.health(), api.ConnectionFailed);
});
