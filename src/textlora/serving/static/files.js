// Files: send them, watch them, see what came out, download it. Each one has a card of its own.

import { at, barRow, count, make, percent, plural, show } from "./dom.js";
import { Problem, ask, hasKey, upload } from "./requests.js";

const POLL = 500;
const MEGABYTE = 1e6;
const LEAST_SECONDS = 3;

const cards = new Set();
let numbers = 0;

export function filePart(chosenModel, limit) {
  const drop = at("drop");
  const take = (files) => [...files].forEach((file) => new Card(file, chosenModel(), limit()).score());
  at("file").addEventListener("change", () => {
    take(at("file").files);
    // So that the same file can be chosen again.
    at("file").value = "";
  });
  for (const type of ["dragenter", "dragover"]) drop.addEventListener(type, (event) => over(event, true));
  drop.addEventListener("dragleave", (event) => over(event, drop.contains(event.relatedTarget)));
  drop.addEventListener("drop", (event) => {
    over(event, false);
    take(event.dataTransfer.files);
  });
  // A file that misses the field would replace the page.
  for (const type of ["dragover", "drop"]) window.addEventListener(type, (event) => event.preventDefault());
  window.addEventListener("beforeunload", (event) => {
    if ([...cards].some((card) => card.under_way)) event.preventDefault();
  });
  window.addEventListener("pagehide", (event) => {
    // Nobody else knows of these files, and the page does not come back.
    if (!event.persisted) [...cards].forEach((card) => card.forget({ leaving: true }));
  });
  at("send").addEventListener("submit", (event) => event.preventDefault());
}

function over(event, inside) {
  event.preventDefault();
  at("drop").classList.toggle("over", inside);
}

class Card {
  constructor(file, model, limit) {
    this.file = file;
    this.model = model;
    this.limit = limit;
    this.column = at("column").value.trim();
    this.stop = new AbortController();
    this.id = null;
    this.started = 0;
    this.element = at("job").content.cloneNode(true).firstElementChild;
    const name = this.part("name");
    name.textContent = file.name;
    name.id = `file-${++numbers}`;
    this.part("progress").setAttribute("aria-labelledby", name.id);
    for (const kind of ["remove", "download", "excel"]) this.part(kind).setAttribute("aria-describedby", name.id);
    this.part("remove").addEventListener("click", () => this.remove());
    for (const kind of ["download", "excel"]) this.part(kind).addEventListener("click", (event) => this.fetchWithKey(event));
    at("jobs").prepend(this.element);
    cards.add(this);
    this.under_way = true;
  }

  part(name) {
    return this.element.querySelector(name === "progress" || name === "table" ? name : `.${name}`);
  }

  async score() {
    this.state("Sending…", true);
    say(`Sending ${this.file.name}.`);
    try {
      this.check();
      const response = await upload(this.address(), this.file, {
        signal: this.stop.signal,
        onProgress: (share) => this.sending(share),
        onWait: (seconds) => seconds && this.state(`The server is busy. Trying again in ${seconds} s…`, true),
      });
      this.id = (await response.json()).id;
      await this.watch();
    } catch (error) {
      if (error.name !== "AbortError") this.fail(error);
    }
  }

  // The server refuses such files as well, but a browser that is still sending may not hear it.
  check() {
    const suffixes = at("file").accept.split(",");
    if (!suffixes.some((suffix) => this.file.name.toLowerCase().endsWith(suffix))) {
      throw new Problem(`This kind of file is not read here; expected one of ${suffixes.join(" ")}.`);
    }
    if (this.file.size > this.limit) {
      throw new Problem(
        `The file has ${megabytes(this.file.size)} MB; ${megabytes(this.limit)} MB is the most here. ` +
          "On the command line, textlora predict takes files of any size.",
      );
    }
  }

  address() {
    const query = new URLSearchParams({ name: this.file.name });
    if (this.model) query.set("model", this.model.name);
    if (this.column) query.set("text", this.column);
    return `files?${query}`;
  }

  async watch() {
    say(`${this.file.name} is being scored.`);
    for (;;) {
      const job = await (await ask(`files/${this.id}`, { signal: this.stop.signal })).json();
      if (job.state === "failed") throw new Problem(job.message);
      this.shares(job);
      if (job.state === "done") return this.done(job);
      this.progress(job);
      await new Promise((resolve) => setTimeout(resolve, POLL));
    }
  }

  sending(share) {
    this.part("progress").value = share;
    this.state(`Sending… ${megabytes(share * this.file.size)} of ${megabytes(this.file.size)} MB`, true);
  }

  progress(job) {
    const bar = this.part("progress");
    if (job.state !== "running" || !job.total) {
      bar.removeAttribute("value");
      this.state(job.state === "running" ? "Counting the rows…" : "Waiting for the files before it…", true);
      return;
    }
    this.started ||= performance.now();
    bar.max = job.total;
    bar.value = job.done;
    this.state(`${count(job.done)} of ${plural(job.total, "row", "rows")}${this.remaining(job)}`, true);
  }

  remaining(job) {
    const seconds = (performance.now() - this.started) / 1000;
    if (seconds < LEAST_SECONDS || !job.done || job.done >= job.total) return "";
    const left = (seconds / job.done) * (job.total - job.done);
    if (left < 60) return `, about ${Math.max(1, Math.round(left))} s left`;
    return left < 5400 ? `, about ${Math.round(left / 60)} min left` : `, about ${(left / 3600).toFixed(1)} h left`;
  }

  shares(job) {
    const names = this.model?.labels ?? Object.keys(job.counts);
    const answers = names.map((label) => [label, job.counts[label] ?? 0, "given"]);
    if (job.without_label) answers.push(["no label", job.without_label, ""]);
    answers.sort((a, b) => b[1] - a[1]);
    if (job.not_sure !== null) answers.push(["not sure", job.not_sure, "unsure"]);
    const rows = Math.max(1, job.answered);
    const table = answers.map(([name, number, className]) =>
      barRow({ name, share: number / rows, figure: `${count(number)} (${percent(number / rows)})`, className }),
    );
    this.part("table").querySelector("tbody").replaceChildren(...table);
    this.part("table").hidden = job.answered === 0;
  }

  done(job) {
    this.under_way = false;
    this.part("progress").hidden = true;
    this.state(`${plural(job.total, "row", "rows")} done.`, false);
    const notes = [
      job.truncated && `${plural(job.truncated, "text was", "texts were")} longer than the model reads: a part of each was not seen.`,
      job.without_text && `${plural(job.without_text, "row has", "rows have")} no text and got no answer.`,
      job.quarantined &&
        `${plural(job.quarantined, "broken row is", "broken rows are")} left out of the result (` +
          `${job.broken.join("; ")}${job.quarantined > job.broken.length ? "; …" : ""}).`,
    ];
    this.part("notes").replaceChildren(...notes.filter(Boolean).map((text) => make("li", { text })));
    this.part("download").href = `files/${job.id}/result`;
    this.part("excel").href = `files/${job.id}/result?spreadsheet=true`;
    for (const kind of ["download", "excel"]) this.part(kind).hidden = false;
    this.part("remove").textContent = "Delete from the server";
    say(`${job.name} is scored: ${plural(job.total, "row", "rows")}. The result can be downloaded.`);
  }

  // A link carries no key. With one, the page fetches the result itself and hands it to the browser.
  async fetchWithKey(event) {
    if (!hasKey()) return;
    event.preventDefault();
    const suffix = event.currentTarget === this.part("excel") ? "scored.excel.csv" : "scored.csv";
    try {
      const response = await ask(event.currentTarget.getAttribute("href"));
      const link = make("a");
      link.href = URL.createObjectURL(await response.blob());
      link.download = `${this.file.name.replace(/\.\w+$/, "")}.${suffix}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    } catch (error) {
      show(this.part("trouble"), error.message);
    }
  }

  remove() {
    this.under_way = false;
    this.stop.abort();
    this.element.remove();
    say(`${this.file.name} is deleted.`);
    at("file").focus();
    this.forget();
  }

  // On the server too; `leaving` when the page ends before the answer could come.
  forget({ leaving = false } = {}) {
    cards.delete(this);
    if (this.id) ask(`files/${this.id}`, { method: "DELETE", leaving }).catch(() => {});
    this.id = null;
  }

  fail(error) {
    this.under_way = false;
    this.part("progress").hidden = true;
    this.state("", false);
    const known = error instanceof Problem;
    const column = known && error.status === 0 && /column/i.test(error.message) && !/already/.test(error.message);
    const advice = column ? "\nName it above, and choose the file again." : "";
    show(this.part("trouble"), known ? error.message + advice : "The page itself failed. Load it again.");
    if (!known) console.error(error);
    this.part("remove").textContent = "Remove";
    if (column) at("column-choice").open = true;
    this.forget();
  }

  state(text, working) {
    this.part("state").textContent = text;
    this.part("state").classList.toggle("working", working);
  }
}

const megabytes = (bytes) => (bytes / MEGABYTE).toFixed(1);

const say = (text) => {
  at("file-spoken").textContent = text;
};
