// The page: what a person does, and what is shown for it.

import { sentence, show, signed } from "./gallery.js";
import { fromFile, fromText, fromTransfer, release, size } from "./pictures.js";
import { currentKey, info, Problem, rank, setKey } from "./service.js";

const element = (id) => document.getElementById(id);
const prompt = element("prompt");
const rankButton = element("rank");
const keyDialog = element("key-dialog");

let pictures = [];
let limits = { max_candidates: 10 };
/** The prompt that the scores on the page belong to. */
let rankedPrompt = null;
/** Ends the request that is under way. */
let running = null;

// What is served

async function describe() {
  try {
    const found = await info();
    limits = found.limits;
    const parts = [found.model.name, `version ${found.model.version}`];
    if (found.device) parts.push(found.device);
    tellModel("ready", parts.join(" · "));
    element("demonstration").hidden = !/demonstration|not ImageReward/i.test(found.model.name);
    element("scale").replaceChildren(...definitions(found.scale));
    element("addresses").hidden = limits.fetch === "off";
    prompt.maxLength = limits.max_prompt_characters;
    document.querySelector(".most").textContent =
      limits.max_candidates === 10 ? "ten" : limits.max_candidates;
    tell("");
    draw();
  } catch (problem) {
    tellModel("failing", problem.code === "unauthorized" ? "an API key is needed" : "no model");
    complain(problem);
  }
}

function tellModel(state, text) {
  element("model").dataset.state = state;
  element("model").textContent = text;
}

function definitions(scale) {
  const names = { raw_score: "Raw score", normalized_score: "Normalised", percentile: "Percentile" };
  return Object.entries(names).flatMap(([field, name]) => [make("dt", name), make("dd", scale[field])]);
}

// Candidates come and go

function add(found) {
  const room = limits.max_candidates - pictures.length;
  const taken = found.slice(0, room);
  found.slice(room).forEach(release);
  pictures.push(...taken.map((picture) => Object.assign(picture, { state: "new" })));
  draw();
  if (taken.length < found.length) {
    const left = found.length - taken.length;
    const were = left === 1 ? "was" : "were";
    tell(`At most ${limits.max_candidates} candidates are ranked at once: ${left} ${were} left out.`);
  } else {
    tell(rankedPrompt === null ? "" : "Rank again to score what is new.");
  }
}

function remove(picture) {
  const at = pictures.indexOf(picture);
  pictures.splice(at, 1);
  release(picture);
  draw();
  const next = pictures[Math.min(at, pictures.length - 1)];
  (next ? next.card.querySelector(".remove") : element("files")).focus();
}

function removeAll() {
  pictures.forEach(release);
  pictures = [];
  rankedPrompt = null;
  tell("");
  draw();
  element("files").focus();
}

function draw() {
  const isEmpty = pictures.length === 0;
  if (isEmpty) rankedPrompt = null;
  const isRanked = rankedPrompt !== null;
  const isStale = isRanked && prompt.value.trim() !== rankedPrompt;
  show(pictures, { onRemove: remove });
  element("gallery").classList.toggle("stale", isStale);
  element("gallery-title").textContent = isStale
    ? "Ranking of the earlier prompt"
    : isRanked
      ? "Ranking"
      : "Candidates";
  element("empty").hidden = !isEmpty;
  element("clear").hidden = isEmpty;
  element("count").textContent = isEmpty ? "" : `${pictures.length} of ${limits.max_candidates}`;
  if (!isRanked) element("made-by").textContent = "";
}

// Ranking

async function start() {
  clearAlert();
  const text = prompt.value.trim();
  if (text === "") return ask(prompt, "Say what the pictures were meant to show.");
  if (pictures.length === 0) return ask(element("files"), "Add a picture first.");
  running = new AbortController();
  const asked = [...pictures];
  setBusy(asked);
  try {
    const candidates = await Promise.all(
      asked.map(async ({ id, address }) => ({ id, image_url: await address() })),
    );
    checkSize(candidates);
    const answer = await rank(text, candidates, running.signal);
    order(asked, answer.results, answer.failed);
    rankedPrompt = text;
    draw();
    report(answer);
  } catch (problem) {
    order(asked, [], problem.failed ?? []);
    if (running.signal.aborted) tell("Stopped.");
    else complain(problem);
    draw();
  } finally {
    running = null;
    rankButton.textContent = "Rank";
    element("gallery").removeAttribute("aria-busy");
  }
}

function setBusy(asked) {
  rankButton.textContent = "Stop";
  element("gallery").setAttribute("aria-busy", "true");
  for (const picture of asked)
    Object.assign(picture, { state: "waiting", result: null, failure: null, isBest: false });
  rankedPrompt = null;
  tell(`Ranking ${count(asked.length, "picture")} …`);
  draw();
}

/** Say here what the service would say after the upload. */
function checkSize(candidates) {
  const bytes = candidates.reduce((sum, candidate) => sum + candidate.image_url.length, 0);
  if (!(bytes > limits.max_body_bytes)) return;
  const most = size(limits.max_body_bytes);
  const detail = `together they have ${size(bytes)} in base64, and a request has at most ${most}`;
  throw new Problem({ title: "The pictures are too large", detail, code: "payload_too_large" });
}

/** Sort the pictures: those with a score, then those that failed, then those that were not asked for. */
function order(asked, results, failed) {
  const byId = new Map(asked.map((picture) => [picture.id, picture]));
  for (const result of results) Object.assign(byId.get(result.id), { state: "ranked", result });
  for (const { id, error } of failed) Object.assign(byId.get(id), { state: "failed", failure: error });
  for (const picture of asked) if (picture.state === "waiting") picture.state = "new";
  const best = results.length > 1 ? byId.get(results[0].id) : null;
  if (best) best.isBest = true;
  const sorted = [...results, ...failed]
    .map(({ id }) => byId.get(id))
    .filter((picture) => pictures.includes(picture));
  pictures = [...sorted, ...pictures.filter((picture) => !sorted.includes(picture))];
}

function report({ results, failed, model, prompt_truncated, prompt_tokens, processing_time_ms }) {
  const best = pictures.find((picture) => picture.id === results[0].id);
  const words = [`${count(results.length, "picture")} ranked.`];
  if (best?.isBest) words.push(`Best: ${best.name}, ${signed(results[0].raw_score)}.`);
  if (failed.length > 0) words.push(`${failed.length} without a score.`);
  if (prompt_truncated) words.push(`Of the prompt, ${prompt_tokens} tokens were read; the rest was cut off.`);
  tell(words.join(" "));
  const weights = model.weights_sha256.slice(0, 12);
  element("made-by").textContent =
    `${model.name}, version ${model.version} · weights ${weights} · ${Math.round(processing_time_ms)} ms`;
  element("gallery-title").focus();
}

// What is said

function tell(words) {
  element("status").textContent = words;
}

/** Ask for what is missing, at its place. */
function ask(field, words) {
  tell(words);
  field.focus();
}

function complain(problem) {
  const isOurs = problem instanceof Problem;
  if (!isOurs) console.error(problem);
  const title = isOurs ? problem.title : "A picture could not be read";
  const panel = make("div", "", "problem");
  panel.append(make("strong", `${title}.`), " ", make("span", isOurs ? sentence(problem.detail) : ""));
  const facts = [problem.code, problem.requestId && `request ${problem.requestId}`]
    .filter(Boolean)
    .join(" · ");
  if (facts) panel.append(make("code", facts));
  if (problem.code === "unauthorized") panel.append(button("Enter a key", openKey));
  else if (problem.retryable)
    panel.append(button("Try again", () => (pictures.length > 0 ? start() : describe())));
  element("alert").replaceChildren(panel);
  tell("");
}

function clearAlert() {
  element("alert").replaceChildren();
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function make(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  if (className) made.className = className;
  return made;
}

function button(text, act) {
  const made = make("button", text);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

// The key

function openKey() {
  element("key").value = currentKey();
  element("key-trouble").textContent = "";
  element("forget-key").hidden = currentKey() === "";
  keyDialog.showModal();
}

function useKey(value) {
  setKey(value);
  element("open-key").toggleAttribute("data-set", value !== "");
  keyDialog.close();
  clearAlert();
  describe();
}

element("open-key").addEventListener("click", openKey);
element("close-key").addEventListener("click", () => keyDialog.close());
element("forget-key").addEventListener("click", () => useKey(""));
element("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const value = element("key").value.trim();
  if (/^[!-~]+$/.test(value)) useKey(value);
  else
    element("key-trouble").textContent = value
      ? "A key has letters, digits and signs of ASCII alone."
      : "Type or paste a key.";
});

// Everything else that a person does

element("question").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else start();
});
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) start();
});
prompt.addEventListener("input", draw);
element("files").addEventListener("change", ({ target }) => {
  add([...target.files].map((file) => fromFile(file)));
  target.value = ""; // the same file may be chosen again
});
element("addresses").addEventListener("submit", (event) => {
  event.preventDefault();
  const found = fromText(element("address").value);
  if (found.length === 0)
    return ask(element("address"), "An address begins with http://, https:// or data:image/.");
  element("address").value = "";
  add(found);
});
element("clear").addEventListener("click", removeAll);

document.addEventListener("paste", (event) => {
  const isText = event.target.closest?.("input, textarea") && event.clipboardData.files.length === 0;
  if (isText || keyDialog.open) return;
  const found = fromTransfer(event.clipboardData);
  if (found.length > 0) event.preventDefault();
  if (found.length > 0) add(found);
});

document.addEventListener("dragover", (event) => {
  if (!/Files|uri-list/.test([...event.dataTransfer.types].join())) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  if (event.target.closest?.("textarea, input") && event.dataTransfer.files.length === 0) return;
  event.preventDefault();
  add(fromTransfer(event.dataTransfer));
});

element("open-key").toggleAttribute("data-set", currentKey() !== "");
draw();
describe();
