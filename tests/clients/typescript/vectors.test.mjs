// The TypeScript client does with every scripted reply what clients/vectors.json says.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { checkout, client as api, schemas } from "./package_under_test.mjs";

const { cases, bodies } = JSON.parse(readFileSync(new URL("clients/vectors.json", checkout), "utf8"));
const METHODS = { score: "score", score_batch: "scoreBatch", info: "info", health: "health" };
const ANSWERS = {
  score: "ScoreResponse",
  score_batch: "BatchResponse",
  info: "InfoResponse",
  health: "HealthResponse",
};

for (const item of cases) {
  test(item.name, async () => {
    const script = new Script(item);
    const found = await script.ask().catch((error) => error);
    if (item.error) compareError(found, item.error);
    else if (found instanceof Error) throw found;
    else {
      const expected = bodyOf(item.answer);
      if (item.allows_more) assert.partialDeepStrictEqual?.(found, expected);
      else assert.deepEqual(found, expected);
      schemas[ANSWERS[item.call]].parse(found);
    }
    assert.equal(script.requests.length, item.replies.length);
    assert.deepEqual(script.waitsMs.map(toSeconds), item.waits_s);
    for (const request of script.requests) compareRequest(request, item.request ?? {});
    compareRequest(script.requests.at(-1), item.last_request ?? {});
  });
}

/** A service that gives the replies of one case, under a clock of its own. */
class Script {
  requests = [];
  waitsMs = [];
  #nowMs = 1_000_000;

  constructor(item) {
    this.item = item;
    this.replies = [...item.replies];
  }

  ask() {
    const { timeout_s, max_attempts, first_wait_s, max_wait_s, api_key } = this.item.options ?? {};
    const retries = defined({
      maxAttempts: max_attempts,
      firstWaitMs: first_wait_s && first_wait_s * 1000,
      maxWaitMs: max_wait_s && max_wait_s * 1000,
    });
    const client = new api.AestheticClient({
      baseUrl: "http://service:8006" + (this.item.base_path ?? ""),
      apiKey: api_key,
      timeoutMs: timeout_s && timeout_s * 1000,
      retries,
      fetch: (url, init) => this.#reply(url, init),
      clock: {
        now: () => this.#nowMs,
        random: () => this.item.random ?? 0,
        sleep: async (ms) => {
          this.waitsMs.push(ms);
          this.#nowMs += ms;
        },
      },
    });
    const input = withBytes(this.item.arguments);
    const method = client[METHODS[this.item.call]].bind(client);
    return this.item.call.startsWith("score") ? method(input) : method();
  }

  async #reply(url, init) {
    this.requests.push({ url, ...init });
    const reply = this.replies.shift();
    this.#nowMs += (reply.takes_s ?? 0) * 1000;
    if (reply.fails) throw new TypeError("fetch failed");
    if (reply.hangs) await new Promise((_, end) => init.signal.addEventListener("abort", () => end(new Error())));
    const body = "text" in reply ? reply.text : JSON.stringify(bodyOf(reply.json));
    return new Response(body, { status: reply.status, headers: reply.headers ?? {} });
  }
}

function withBytes(given) {
  const { image_bytes, candidates, ...others } = given;
  if (candidates) return { ...others, candidates: candidates.map(withBytes) };
  if (image_bytes) return { ...others, image: Uint8Array.from(image_bytes) };
  if (!others.image_url?.startsWith("data:")) return others;
  const { image_url, ...rest } = others;
  return { ...rest, image_base64: image_url };
}

function compareError(found, expected) {
  assert(found instanceof api.AestheticError, String(found));
  const name = expected.code.replaceAll(/(^|_)(.)/g, (_, __, letter) => letter.toUpperCase());
  assert.equal(found.constructor, api[name] ?? api.AestheticError);
  const shown = {
    ...found,
    status: found.status ?? null,
    retry_after_s: found.retryAfterMs && found.retryAfterMs / 1000,
    request_id: found.requestId,
  };
  for (const [key, value] of Object.entries(expected)) assert.deepEqual(shown[key], value, key);
}

function compareRequest(request, expected) {
  if (expected.path) assert.deepEqual([request.method, new URL(request.url).pathname], [expected.method, expected.path]);
  const headers = new Headers(request.headers);
  for (const [name, value] of Object.entries(expected.headers ?? {})) assert.equal(headers.get(name), value, name);
  if (expected.json) {
    assert.deepEqual(JSON.parse(request.body), expected.json);
    schemas["candidates" in expected.json ? "BatchRequest" : "ScoreRequest"].parse(expected.json);
  }
}

function bodyOf(value) {
  return typeof value === "string" ? bodies[value.slice(1)] : value;
}

function toSeconds(ms) {
  return Math.round(ms * 1000) / 1e6;
}

function defined(options) {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}
