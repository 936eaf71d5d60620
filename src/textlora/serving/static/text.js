// One text: classify it, show the answer and what carried it.

import { at, barRow, count, make, percent, show } from "./dom.js";
import { Problem, ask } from "./requests.js";
import { showPlain, showWords } from "./words.js";

const FEW_LABELS = 8;
// English, roughly; only ever said as "about".
const CHARACTERS_PER_TOKEN = 4.5;
const EXAMPLES = [
  "The script is dull, but I loved the music.",
  "Arrived two days late and the box was torn. The lamp itself is lovely, and support answered within the hour.",
  "I wanted to like it. The first half is funny, the second forgets why we came, and the end is a shrug.",
];

let under_way = null;
let example = 0;

export function textPart(chosenModel) {
  const field = at("text");
  at("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    classify(field.value, chosenModel());
  });
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      at("ask").requestSubmit();
    }
  });
  field.addEventListener("input", () => changed(chosenModel()));
  at("example").addEventListener("click", () => {
    field.value = EXAMPLES[example++ % EXAMPLES.length];
    changed(chosenModel());
    at("ask").requestSubmit();
  });
  at("clear").addEventListener("click", () => {
    field.value = "";
    reset();
    changed(chosenModel());
    field.focus();
  });
  at("more").addEventListener("click", () => allLabels(at("more").getAttribute("aria-expanded") === "false"));
  if (/Mac|iP(hone|ad)/.test(navigator.platform)) at("modifier").textContent = "⌘";
}

// Another model: what is shown is no longer its answer.
export function reset() {
  under_way?.abort();
  at("result").hidden = true;
  show(at("trouble"), "");
  working("");
}

export function changed(model) {
  const text = at("text").value;
  at("clear").hidden = text === "";
  at("result").classList.add("old");
  const characters = Array.from(text).length;
  const tokens = characters / CHARACTERS_PER_TOKEN;
  const over = model && tokens > model.max_length;
  at("count").classList.toggle("over", Boolean(over));
  at("count").textContent = !characters
    ? ""
    : `${count(characters)} ${characters === 1 ? "character" : "characters"}` +
      (over ? `, about ${count(Math.round(tokens / 10) * 10)} tokens: more than the ${count(model.max_length)} that the model reads` : "");
}

async function classify(given, model) {
  const text = given.toWellFormed?.() ?? given;
  show(at("trouble"), "");
  if (!text.trim()) {
    show(at("trouble"), "There is no text yet: paste or write one first.");
    at("text").focus();
    return;
  }
  under_way?.abort();
  const mine = new AbortController();
  under_way = mine;
  working("Classifying…");
  try {
    await answer(text, model, mine.signal);
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
  } finally {
    if (under_way === mine) working("");
  }
}

// The answer takes one forward pass, what carried it many: the answer is shown first.
async function answer(text, model, signal) {
  const prediction = await predict({ details: true }, "Classifying…", text, model, signal);
  showAnswer(text, prediction, model);
  const { explanation } = await predict({ explain: true }, "Looking for the words that carried it…", text, model, signal);
  const strongest = words(text, { ...explanation, probability: scoreOf(prediction, explanation.label) });
  at("spoken").textContent = spokenWords(strongest);
}

async function predict(wanted, doing, text, model, signal) {
  const onWait = (seconds) => working(seconds ? `The server is busy. Trying again in ${seconds} s…` : doing);
  working(doing);
  const json = { inputs: [text], model: model.name, ...wanted };
  const response = await ask("predict", { method: "POST", json, signal, onWait });
  return (await response.json()).predictions[0];
}

const scoreOf = (prediction, label) => prediction.scores.find((each) => each.label === label)?.score;

function fail(error) {
  // An answer that is there stays, even where the words for it did not come.
  at("result").hidden = at("result").classList.contains("old");
  show(at("trouble"), error instanceof Problem ? error.message : "The page itself failed. Load it again.");
  if (!(error instanceof Problem)) console.error(error);
}

function working(text) {
  at("progress").textContent = text;
  at("progress").classList.toggle("working", text !== "");
  at("result").setAttribute("aria-busy", String(text !== ""));
}

function showAnswer(text, prediction, model) {
  const several = model.task === "multi_label";
  const given = several ? prediction.possible : prediction.abstains ? [] : [prediction.label];
  verdict(prediction, given, several);
  bars(prediction, given, model);
  show(at("truncated"), prediction.truncated ? truncatedNote(model) : "");
  at("result").classList.remove("old");
  at("result").hidden = false;
  if (at("result").getBoundingClientRect().top > window.innerHeight - 100) at("result").scrollIntoView({ block: "center" });
  words(text, null);
  at("spoken").textContent = spoken(prediction);
}

const truncatedNote = (model) =>
  `A part of this text was not seen: it is longer than the ${count(model.max_length)} tokens that the model reads.`;

function verdict(prediction, given, several) {
  const { label, score, abstains, possible } = prediction;
  at("verdict").classList.toggle("unsure", abstains);
  if (abstains) {
    at("verdict").replaceChildren("Not sure");
    const which = possible.length ? `It may be ${possible.join(" or ")}.` : "It looks like none of the labels.";
    at("verdict-note").textContent = `${which} Best guess: ${label}, ${percent(score)}.`;
  } else if (several) {
    at("verdict").replaceChildren(given.length ? given.join(", ") : "No label");
    at("verdict-note").textContent = given.length ? "" : "No label reaches its threshold.";
  } else {
    at("verdict").replaceChildren(make("bdi", { text: label }), " ", make("span", { text: percent(score), className: "figure" }));
    at("verdict-note").textContent = "";
  }
}

function bars(prediction, given, model) {
  const thresholds = thresholdsOf(model);
  const possible = prediction.abstains ? prediction.possible : [];
  const rows = [...prediction.scores].sort((a, b) => b.score - a.score).map(({ label, score }) => {
    const mark = thresholds.get(label);
    return barRow({
      name: label,
      share: score,
      figure: percent(score),
      className: given.includes(label) ? "given" : possible.includes(label) ? "unsure" : "",
      mark,
      markText: mark === undefined ? "" : `given from ${percent(mark)} on`,
    });
  });
  at("bars").querySelector("tbody").replaceChildren(...rows);
  show(at("threshold-note"), thresholds.size ? "The line in a bar is the probability from which its label is given." : "");
  const hidden = rows.length - Math.max(FEW_LABELS, given.length, possible.length);
  at("more").hidden = hidden < 2;
  at("more").dataset.few = String(rows.length - hidden);
  allLabels(hidden < 2);
}

// From which probability on each label is given, where that is not simply the largest one.
function thresholdsOf(model) {
  if (model.task === "multi_label") return new Map(model.labels.map((label, place) => [label, model.thresholds[place] ?? 0.5]));
  return new Map(model.decision ? [[model.decision.label, model.decision.threshold]] : []);
}

function allLabels(all) {
  const rows = [...at("bars").querySelectorAll("tbody tr")];
  const few = Number(at("more").dataset.few);
  rows.forEach((row, index) => {
    row.hidden = !all && index >= few;
  });
  at("more").setAttribute("aria-expanded", String(all));
  at("more").textContent = all ? "Show fewer labels" : `Show all ${rows.length} labels`;
}

function words(text, explanation) {
  if (!explanation) {
    at("why-heading").textContent = "Words that carried it";
    showPlain(text);
    return [];
  }
  at("why-heading").replaceChildren("Words that carried ", make("bdi", { text: `“${explanation.label}”` }));
  return showWords(text, explanation);
}

function spoken(prediction) {
  const answer = [at("verdict").textContent, at("verdict-note").textContent].filter(Boolean).join(". ");
  return `${answer}.${prediction.truncated ? " A part of the text was not seen." : ""}`;
}

function spokenWords(strongest) {
  const told = strongest.map((word) => `${word.word}, ${word.weight > 0 ? "for" : "against"}`).join("; ");
  return told ? `Strongest words: ${told}.` : "No word alone changes the probability much.";
}
