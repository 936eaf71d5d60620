// A file: send it, watch it, see what came out, download it.

import { at, barRow, count, make, percent, plural, show } from "./dom.js";
import { Problem, ask, hasKey, upload } from "./requests.js";

const POLL = 500;
const MEGABYTE = 1e6;
const LEAST_SECONDS = 3;

let watched = null;

export function filePart(chosenModel) {
  const drop = at("drop");
  at("file").addEventListener("change", () => {
    const [file] = at("file").files;
    // So that the same file can be chosen again.
    if (file) score(file, chosenModel()).finally(() => { at("file").value = ""; });
  });
  for (const type of ["dragenter", "dragover"]) drop.addEventListener(type, (event) => over(event, true));
  drop.addEventListener("dragleave", (event) => over(event, drop.contains(event.relatedTarget)));
  drop.addEventListener("drop", (event) => {
    over(event, false);
    const files = [...event.dataTransfer.files];
    if (files.length > 1) trouble("One file at a time, please.");
    else if (files.length) score(files[0], chosenModel());
  });
  // A file that misses the field would replace the page.
  for (const type of ["dragover", "drop"]) window.addEventListener(type, (event) => event.preventDefault());
  at("send").addEventListener("submit", (event) => event.preventDefault());
  at("cancel").addEventListener("click", remove);
  for (const id of ["download", "download-excel"]) at(id).addEventListener("click", fetchWithKey);
}

function over(event, inside) {
  event.preventDefault();
  at("drop").classList.toggle("over", inside);
}

async function score(file, model) {
  await forget();
  const mine = { stop: new AbortController(), name: file.name, started: 0 };
  watched = mine;
  show(at("file-trouble"), "");
  start(file);
  try {
    const response = await upload(address(file, model), file, {
      signal: mine.stop.signal,
      onProgress: (share) => sending(share, file),
      onWait: (seconds) => seconds && state(`The server is busy. Trying again in ${seconds} s…`, true),
    });
    mine.id = (await response.json()).id;
    await watch(mine, model);
  } catch (error) {
    if (error.name === "AbortError" || watched !== mine) return;
    at("job").hidden = true;
    trouble(error instanceof Problem ? error.message : "The page itself failed. Load it again.");
    if (!(error instanceof Problem)) console.error(error);
  }
}

function address(file, model) {
  const query = new URLSearchParams({ name: file.name });
  if (model) query.set("model", model.name);
  if (at("column").value.trim()) query.set("text", at("column").value.trim());
  return `files?${query}`;
}

function start(file) {
  at("job").hidden = false;
  at("job-name").textContent = file.name;
  at("job-progress").hidden = false;
  at("job-progress").removeAttribute("value");
  for (const id of ["shares", "download", "download-excel"]) at(id).hidden = true;
  at("job-notes").replaceChildren();
  at("cancel").textContent = "Stop";
  state("Sending…", true);
  at("file-spoken").textContent = `Sending ${file.name}.`;
}

function sending(share, file) {
  at("job-progress").value = share;
  state(`Sending… ${(share * file.size / MEGABYTE).toFixed(1)} of ${(file.size / MEGABYTE).toFixed(1)} MB`, true);
}

async function watch(mine, model) {
  at("file-spoken").textContent = `${mine.name} is being scored.`;
  for (;;) {
    const response = await ask(`files/${mine.id}`, { signal: mine.stop.signal });
    const job = await response.json();
    if (watched !== mine) return;
    if (job.state === "failed") throw new Problem(job.message);
    progress(job, mine);
    shares(job, model);
    if (job.state === "done") return done(job);
    await new Promise((resolve) => setTimeout(resolve, POLL));
  }
}

function progress(job, mine) {
  if (job.state === "waiting") return state("Waiting for the files before it…", true);
  if (!job.total) {
    at("job-progress").removeAttribute("value");
    return state("Counting the rows…", true);
  }
  at("job-progress").max = job.total;
  at("job-progress").value = job.done;
  mine.started ||= performance.now();
  state(`${count(job.done)} of ${plural(job.total, "row", "rows")}${remaining(job, mine)}`, true);
}

function remaining(job, mine) {
  const seconds = (performance.now() - mine.started) / 1000;
  if (seconds < LEAST_SECONDS || !job.done || job.done >= job.total) return "";
  const left = (seconds / job.done) * (job.total - job.done);
  if (left < 60) return `, about ${Math.max(1, Math.round(left))} s left`;
  return left < 5400 ? `, about ${Math.round(left / 60)} min left` : `, about ${(left / 3600).toFixed(1)} h left`;
}

function shares(job, model) {
  const labels = (model?.labels ?? Object.keys(job.counts)).map((label) => [label, job.counts[label] ?? 0, "given"]);
  if (job.without_label) labels.push(["no label", job.without_label, ""]);
  labels.sort((a, b) => b[1] - a[1]);
  if (job.not_sure !== null) labels.push(["not sure", job.not_sure, "unsure"]);
  const rows = Math.max(1, job.done - job.without_text - job.quarantined);
  const table = labels.map(([name, number, className]) =>
    barRow({ name, share: number / rows, figure: `${count(number)}  (${percent(number / rows)})`, className }),
  );
  at("shares").querySelector("tbody").replaceChildren(...table);
  at("shares").hidden = job.done === 0;
}

function done(job) {
  at("job-progress").hidden = true;
  state(`${plural(job.total, "row", "rows")} done.`, false);
  const notes = [
    job.truncated && `${plural(job.truncated, "text was", "texts were")} longer than the model reads: a part of each was not seen.`,
    job.without_text && `${plural(job.without_text, "row has", "rows have")} no text and got no answer.`,
    job.quarantined && `${plural(job.quarantined, "broken row is", "broken rows are")} left out of the result.`,
  ];
  at("job-notes").replaceChildren(...notes.filter(Boolean).map((text) => make("li", { text })));
  at("download").href = `files/${job.id}/result`;
  at("download-excel").href = `files/${job.id}/result?spreadsheet=true`;
  for (const id of ["download", "download-excel"]) at(id).hidden = false;
  at("cancel").textContent = "Delete from the server";
  at("file-spoken").textContent = `${job.name} is scored: ${plural(job.total, "row", "rows")}. The result can be downloaded.`;
}

// A link carries no key. With one, the page fetches the file itself and hands it to the browser.
async function fetchWithKey(event) {
  if (!hasKey()) return;
  event.preventDefault();
  try {
    const response = await ask(event.currentTarget.getAttribute("href"));
    const name = decodeURIComponent(/filename\*?=(?:utf-8'')?"?([^";]+)/i.exec(response.headers.get("Content-Disposition") ?? "")?.[1] ?? "scored.csv");
    const link = make("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    trouble(error.message);
  }
}

async function remove() {
  await forget();
  at("job").hidden = true;
  at("file-spoken").textContent = "The file is deleted.";
  at("file").focus();
}

// Stops what is under way and deletes it on the server.
async function forget() {
  const old = watched;
  watched = null;
  if (!old) return;
  old.stop.abort();
  if (old.id) await ask(`files/${old.id}`, { method: "DELETE" }).catch(() => {});
}

function state(text, working) {
  at("job-state").textContent = text;
  at("job-state").classList.toggle("working", working);
}

function trouble(text) {
  show(at("file-trouble"), text);
  if (/column/i.test(text)) at("column-choice").open = true;
}
