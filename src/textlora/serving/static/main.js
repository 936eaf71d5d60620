// The page: which models there are, and its two parts.

import { at, count, make, plural, show } from "./dom.js";
import { filePart } from "./files.js";
import { Problem, ask, hasKey } from "./requests.js";
import { changed, reset, textPart } from "./text.js";

const FEW_NAMES = 6;
let models = [];
let fileLimit = Infinity;

const chosen = () => models.find((model) => model.name === at("model").value) ?? models[0];

async function begin() {
  textPart(chosen);
  filePart(chosen, () => fileLimit);
  at("report").addEventListener("click", openReport);
  at("model").addEventListener("change", () => {
    reset();
    describe(chosen());
  });
  try {
    const info = await (await ask("info")).json();
    models = info.models;
    fileLimit = info.limits.file_bytes;
    at("version").textContent = `– textlora ${info.version}`;
    at("file-limit").textContent = `, up to ${count(Math.round(fileLimit / 1e6))} MB`;
    at("model").replaceChildren(...models.map(({ name }) => make("option", { text: name })));
    at("models").hidden = models.length < 2;
    describe(chosen());
  } catch (error) {
    show(at("loading-trouble"), error instanceof Problem ? error.message : "The page itself failed. Load it again.");
    if (!(error instanceof Problem)) console.error(error);
  }
}

function describe(model) {
  document.title = `${model.name} – textlora`;
  at("name").textContent = model.name;
  at("facts").textContent = facts(model);
  at("report").hidden = !model.report;
  at("report").href = `report/${encodeURIComponent(model.name)}`;
  at("column").placeholder = model.text_column || "";
  changed(model);
}

// A link cannot carry the key: the server gives a ticket for it.
async function openReport(event) {
  if (!hasKey()) return;
  event.preventDefault();
  try {
    const { url } = await (await ask(`report/${encodeURIComponent(chosen().name)}`, { method: "POST" })).json();
    if (!window.open(url, "_blank")) window.location.assign(url);
  } catch (error) {
    show(at("loading-trouble"), error.message);
  }
}

function facts(model) {
  const names = model.labels.length <= FEW_NAMES ? `: ${model.labels.join(", ")}` : "";
  const kind = model.task === "multi_label" ? "any number of " : "one of ";
  const doubt = model.abstains ? "; says when it is not sure" : "";
  return `Gives a text ${kind}${plural(model.labels.length, "label", "labels")}${names}${doubt}`;
}

begin();
