// Small things that all parts of the page need. Text gets into the page as text, never as markup.

export const at = (id) => document.getElementById(id);

export function make(tag, { text, className, title, dir, scope } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  if (title) element.title = title;
  if (dir) element.dir = dir;
  if (scope) element.scope = scope;
  element.append(...children);
  return element;
}

export function show(element, text) {
  element.hidden = text === "" || text === undefined || text === null || text === false;
  if (typeof text === "string") element.textContent = text;
}

export const count = (number) => number.toLocaleString("en");

export function percent(share) {
  if (share > 0.9995 && share < 1) return "> 99.9 %";
  if (share > 0 && share < 0.0005) return "< 0.1 %";
  return `${(100 * share).toFixed(1)} %`;
}

export const plural = (number, one, many) => `${count(number)} ${number === 1 ? one : many}`;

// A row of a table of bars: name, bar, figure. `mark` is a place on the bar, 0 to 1.
export function barRow({ name, share, figure, className, mark, markText }) {
  const fill = make("div", { className: "fill" });
  fill.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
  const track = make("div", { className: "track" }, fill);
  track.setAttribute("aria-hidden", "true");
  if (mark !== undefined) {
    const line = make("div", { className: "threshold", title: markText });
    line.style.left = `${100 * mark}%`;
    track.append(line);
  }
  const value = make("td", { text: figure, className: "num" });
  if (markText) value.append(make("span", { text: `, ${markText}`, className: "unseen" }));
  return make("tr", { className }, make("th", { text: name, scope: "row", dir: "auto" }), make("td", {}, track), value);
}
