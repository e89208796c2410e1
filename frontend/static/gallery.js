// The cards: one for each picture, in the order of the ranking.

const list = document.getElementById("gallery");
const template = document.getElementById("card");

// What a person reads in the place of a code; the service's own sentence follows.
const FAILURES = {
  image_undecodable: "Not a picture that can be read.",
  image_too_large: "Too large.",
  image_url_forbidden: "This address is not allowed.",
  image_unreachable: "Could not be fetched.",
};

/** Show these pictures, in this order; those that were there move to their new places. */
export function show(pictures, { onRemove }) {
  const before = new Map(pictures.map((picture) => [picture, picture.card?.getBoundingClientRect()]));
  for (const picture of pictures) {
    picture.card ??= makeCard(picture, onRemove);
    fill(picture);
  }
  const wanted = pictures.map((picture) => picture.card);
  // Moving an element takes its focus away, so nothing is moved that is in its place.
  if (wanted.length !== list.children.length || wanted.some((card, at) => card !== list.children[at])) {
    list.replaceChildren(...wanted);
  }
  for (const [picture, place] of before) if (place) move(picture.card, place);
}

function makeCard(picture, onRemove) {
  const card = template.content.firstElementChild.cloneNode(true);
  const image = card.querySelector("img");
  const standIn = () => {
    image.remove();
    card.querySelector(".stand-in").textContent = picture.host ?? "no preview";
  };
  if (picture.preview === null) standIn();
  else {
    image.addEventListener("error", standIn);
    image.src = picture.preview;
  }
  card.querySelector(".name").textContent = picture.name;
  card.querySelector(".name").title = picture.name;
  const remove = card.querySelector(".remove");
  remove.setAttribute("aria-label", `Remove ${picture.name}`);
  remove.addEventListener("click", () => onRemove(picture));
  return card;
}

function fill({ card, state, note, result, failure, isBest }) {
  card.dataset.state = state;
  card.toggleAttribute("data-best", Boolean(isBest));
  write(card, ".note", note);
  if (result) {
    write(card, ".rank .number", result.rank);
    write(card, ".raw dd", signed(result.raw_score));
    write(card, ".normalized dd", result.normalized_score.toFixed(3));
    write(card, ".percentile dd", result.percentile.toFixed(1));
    card.querySelector(".bar span").style.width = `${100 * result.normalized_score}%`;
  }
  if (failure) {
    write(card, ".failure strong", FAILURES[failure.code] ?? "No score.");
    write(card, ".failure span", sentence(failure.detail));
    write(card, ".failure code", failure.code);
  }
}

/** A raw score with three digits, and a minus as long as a plus. */
export function signed(score) {
  return score.toFixed(3).replace("-", "\u2212");
}

/** The service's words as a sentence. */
export function sentence(words) {
  return words && `${words[0].toUpperCase()}${words.slice(1)}.`;
}

function write(card, selector, text) {
  card.querySelector(selector).textContent = text;
}

/** Let a card glide from the place where it was. */
function move(card, from) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  const to = card.getBoundingClientRect();
  const [x, y] = [from.left - to.left, from.top - to.top];
  if (x === 0 && y === 0) return;
  card.animate([{ transform: `translate(${x}px, ${y}px)` }, { transform: "none" }], {
    duration: 420,
    easing: "cubic-bezier(.2,.8,.2,1)",
  });
}
