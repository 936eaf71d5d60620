// The words that carried an answer: highlighted in the text, and as a list.

import { at, make, percent, show } from "./dom.js";

// As textlora.explanation: the strongest word shows at full strength unless even it changes little.
const STRONG = 0.5;
const LEAST = 1 / 5;
const LEVELS = 3;
const LISTED = 12;
const LEAST_LISTED = 0.1;
// Pixels.
const LONG = 520;

export function level(weight, scale) {
  const share = weight / Math.max(scale, STRONG);
  if (Math.abs(share) < LEAST) return 0;
  return Math.sign(share) * Math.min(LEVELS, 1 + Math.trunc(Math.abs(share) * LEVELS));
}

// `text` is what was sent; places are counted in code points, as the server counts them.
export function showWords(text, explanation) {
  const characters = Array.from(text);
  const words = explanation.spans.map((span) => ({ ...span, word: characters.slice(span.start, span.end).join("") }));
  const scale = Math.max(0, ...words.map((word) => Math.abs(word.weight)));
  const shown = words.filter((word) => level(word.weight, scale) !== 0);
  at("marked").replaceChildren(...pieces(characters, shown, scale, explanation));
  scrolls();
  show(at("legend"), shown.length > 0);
  show(at("no-words"), shown.length ? "" : "No word alone changes the probability much.");
  list(words, explanation);
  return strongest(words).slice(0, 5);
}

// The text as it is, while its words are looked at.
export function showPlain(text) {
  at("marked").replaceChildren(text);
  scrolls();
  for (const id of ["legend", "no-words", "words"]) at(id).hidden = true;
}

// A long text scrolls in its field, and the keyboard must reach it.
function scrolls() {
  const field = at("marked");
  field.scrollTop = 0;
  field.classList.remove("long");
  const long = field.scrollHeight > LONG;
  field.classList.toggle("long", long);
  if (long) field.tabIndex = 0;
  else field.removeAttribute("tabindex");
}

function pieces(characters, shown, scale, explanation) {
  const found = [];
  let place = 0;
  for (const word of shown) {
    const strength = level(word.weight, scale);
    found.push(characters.slice(place, word.start).join(""));
    const className = `${strength > 0 ? "for" : "against"}${Math.abs(strength)}`;
    found.push(make("mark", { text: word.word, className, title: tooltip(word, explanation) }));
    place = word.end;
  }
  found.push(characters.slice(place).join(""));
  return found;
}

function tooltip(word, explanation) {
  const whole = explanation.probability === undefined ? "" : ` instead of ${percent(explanation.probability)}`;
  return `without it: ${explanation.label} ${percent(word.probability)}${whole}`;
}

const strongest = (words) =>
  words.filter((word) => Math.abs(word.weight) >= LEAST_LISTED).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight));

function list(words, explanation) {
  const rows = strongest(words).slice(0, LISTED).map((word) =>
    make(
      "tr",
      {},
      make("th", { text: short(word.word), scope: "row", dir: "auto" }),
      make("td", { text: word.weight > 0 ? "for" : "against" }),
      make("td", { text: percent(word.probability), className: "num" }),
      make("td", { text: `${word.weight > 0 ? "+" : "−"}${Math.abs(word.weight).toFixed(2)}`, className: "num" }),
    ),
  );
  at("words").querySelector("tbody").replaceChildren(...rows);
  at("without-heading").textContent = `${explanation.label} without it`;
  at("words").hidden = rows.length === 0;
}

const short = (text) => (text.length > 80 ? `${text.slice(0, 79)}…` : text);
