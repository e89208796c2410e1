// The service that this page belongs to: its answers, or a Problem.

const STORED = "imajin-aesthetic-key";
let key = read();

/** An error of the service, in the fields of application/problem+json, or that there is no answer. */
export class Problem extends Error {
  constructor({ title, detail = "", code = "", retryable = false, request_id = "", failed = [] }) {
    super(title);
    Object.assign(this, { title, detail, code, retryable, requestId: request_id, failed: failed ?? [] });
  }
}

/** The API key: for as long as the tab is open, never in an address. */
export function currentKey() {
  return key;
}

export function setKey(value) {
  key = value;
  try {
    if (value) sessionStorage.setItem(STORED, value);
    else sessionStorage.removeItem(STORED);
  } catch {
    // Storage is forbidden: the key lasts as long as the page.
  }
}

export function info() {
  return ask("info", {});
}

/** Rank candidates of the form {id, image_url}. */
export function rank(prompt, candidates, signal) {
  const body = JSON.stringify({ prompt, candidates });
  return ask("score-batch", {
    method: "POST",
    body,
    signal,
    headers: { "Content-Type": "application/json" },
  });
}

async function ask(path, options) {
  const headers = { ...options.headers, ...(key && { "X-API-Key": key }) };
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Problem({ title: "The service cannot be reached", code: "connection_failed", retryable: true });
  }
  const answer = await response.json().catch(() => null);
  if (response.ok && answer !== null) return answer;
  throw new Problem(
    answer?.title ? answer : { title: `An answer with status ${response.status}, which cannot be read` },
  );
}

function read() {
  try {
    return sessionStorage.getItem(STORED) ?? "";
  } catch {
    return "";
  }
}
