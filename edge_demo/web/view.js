// Puts results on the page. Knows its elements, and nothing of models.

import { quantile } from "./numbers.js";

/** @typedef {import("./engine.js").Result} Result */

/**
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 * @returns {T} The element of index.html.
 */
export function element(id) {
  return /** @type {T} */ (document.getElementById(id));
}

/**
 * Shows characters that turn the direction of what follows as their numbers, as printable() of the Python program does.
 * @param {string} text
 */
export function legible(text) {
  return text.replace(/[\u202a-\u202e\u2066-\u2069]/g, (turn) => `\\u${turn.charCodeAt(0).toString(16)}`);
}

/** What had the focus before a problem was shown. @type {Element | null} */
let focused = null;

/** Says what is wrong and what to do. @param {unknown} error @param {() => void} [retry] Where it can help. */
export function showProblem(error, retry) {
  const { message, details } = /** @type {import("./errors.js").InputError} */ (error);
  element("problem-text").textContent = legible(message[0].toUpperCase() + message.slice(1));
  const more = /** @type {HTMLDetailsElement} */ (element("problem-details"));
  more.hidden = !details;
  more.open = false;
  /** @type {HTMLElement} */ (more.lastElementChild).textContent = details;
  element("retry").hidden = !retry;
  element("retry").onclick = () => {
    hideProblem();
    retry?.();
  };
  const problem = element("problem");
  if (problem.hidden) focused = document.activeElement;
  problem.hidden = false;
  problem.scrollIntoView({ block: "nearest" });
}

export function hideProblem() {
  hide(element("problem"), focused);
}

/** Hides what may have the focus, which then goes elsewhere: without, Tab would begin at the top. @param {HTMLElement} part @param {Element | null} next */
export function hide(part, next) {
  const has = part.contains(document.activeElement);
  part.hidden = true;
  if (!has) return;
  /** @type {HTMLElement | null} */ (next)?.focus();
  if (document.activeElement === document.body) element("open").focus();
}

/** @param {"loading" | "ready" | "partly" | "none"} state @param {string} text @param {number} [share] Of the loading that is done. */
export function showRunning(state, text, share) {
  const running = element("running");
  text = legible(text);
  // Each change is read aloud; of the percents the bar tells.
  if (running.textContent !== text) running.textContent = text;
  running.dataset.state = state;
  const progress = element("progress");
  progress.hidden = share === undefined;
  if (share !== undefined) /** @type {HTMLProgressElement} */ (progress).value = share;
}

/**
 * Shows the classes as bars. Rows are used again, so that bars of a live picture move and do not flicker.
 * @param {{index: number, label: string, probability: number}[]} rows @param {string} note @param {boolean} [coloured] As on the picture.
 */
export function showClasses(rows, note, coloured = false) {
  const list = element("classes");
  while (list.children.length > rows.length) list.lastElementChild?.remove();
  rows.forEach(({ index, label, probability }, i) => {
    const row = /** @type {HTMLElement} */ (list.children[i] ?? list.appendChild(makeRow()));
    Object.assign(row.dataset, { index, probability });
    row.style.setProperty("--share", probability.toFixed(4));
    row.style.setProperty("--colour", coloured ? classColour(index) : "");
    row.children[0].textContent = legible(label);
    row.children[1].textContent = `${(100 * probability).toFixed(1)} %`;
  });
  element("classes-note").textContent = note;
  element("classes-note").hidden = !note;
}

function makeRow() {
  const row = document.createElement("li");
  for (const name of ["label", "share"]) row.appendChild(document.createElement("span")).className = name;
  /** @type {HTMLElement} */ (row.children[0]).dir = "auto"; // Labels are in any language.
  return row;
}

/** @param {Result["ms"][]} all Of the live run, or one. @param {string} note */
export function showTimes(all, note) {
  const rows = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("#times tbody tr"));
  for (const row of rows) {
    const times = all.map((ms) => (row.dataset.part === "total" ? ms.decode + ms.preprocess + ms.inference : ms[/** @type {keyof typeof ms} */ (row.dataset.part)]));
    const shown = all.length > 1 ? [times[times.length - 1], quantile(times, 0.5), quantile(times, 0.9)] : [times[0]];
    row.querySelectorAll("td").forEach((cell, i) => (cell.textContent = shown[i]?.toFixed(1) ?? "–"));
  }
  element("live-note").textContent = note;
}

/**
 * Lays a map over the part of the picture that the model sees, or takes it away.
 * @param {Result | null} result @param {[number, number]} crop Height and width of the input. @param {number} strength
 * @param {number} [background] The class whose pixels a mask leaves as they are.
 */
export function showMap(result, crop, strength, background = -1) {
  const canvas = element("map");
  const map = result?.map ?? (result?.mask ? { ...result.mask, cell: 1 } : null);
  canvas.hidden = !map;
  if (!result || !map) return;
  const { rows, columns, cell } = map;
  const { width, height, box } = result;
  placeOnPicture(element("visible"), width, height, box);
  Object.assign(canvas, { width: columns, height: rows });
  // The last row and column of tokens may reach beyond the picture.
  Object.assign(canvas.style, { width: `${(100 * columns * cell) / crop[1]}%`, height: `${(100 * rows * cell) / crop[0]}%`, opacity: strength });
  const context = /** @type {CanvasRenderingContext2D} */ (/** @type {HTMLCanvasElement} */ (canvas).getContext("2d"));
  const pixels = context.createImageData(columns, rows);
  if ("values" in map) map.values.forEach((value, i) => pixels.data.set(heat(value), 4 * i));
  else map.classes.forEach((index, i) => pixels.data.set(index === background ? [0, 0, 0, 0] : [...rgb(classHue(index)), 255], 4 * i));
  canvas.classList.toggle("mask", !("values" in map));
  context.putImageData(pixels, 0, 0);
}

/**
 * Draws boxes with their labels on the picture, the most likely over the others, or takes them away.
 * @param {Result | null} result @param {{index: number, label: string, probability: number}[]} rows Those of `result.found` that are shown.
 */
export function showBoxes(result, rows) {
  const part = element("visible");
  for (const box of part.querySelectorAll(".box")) box.remove();
  if (!result?.found) return;
  placeOnPicture(part, result.width, result.height, result.box);
  result.found.slice(0, rows.length).forEach(({ box: [top, left, bottom, right] }, i) => {
    const box = document.createElement("div");
    box.className = "box";
    const sides = { left, top, width: right - left, height: bottom - top };
    for (const [side, share] of Object.entries(sides)) box.style.setProperty(side, `${100 * share}%`);
    box.style.setProperty("--colour", classColour(rows[i].index));
    box.style.zIndex = String(rows.length - i);
    const label = box.appendChild(document.createElement("span"));
    label.textContent = `${legible(rows[i].label)} ${Math.round(100 * rows[i].probability)} %`;
    label.dir = "auto";
    part.append(box);
  });
}

/** The hues of neighbours are far apart. As overlay.py. @param {number} index */
function classHue(index) {
  return (index * 137.508) % 360;
}

/** Light enough for dark letters. @param {number} index */
function classColour(index) {
  return `hsl(${classHue(index)} 80% 65%)`;
}

/** That of `classColour`. @param {number} hue */
function rgb(hue) {
  const [saturation, lightness] = [0.8, 0.65];
  const reach = saturation * Math.min(lightness, 1 - lightness);
  return [0, 8, 4].map((n) => {
    const k = (n + hue / 30) % 12;
    return Math.round(255 * (lightness - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
  });
}

/** @param {HTMLElement} part @param {number} width @param {number} height @param {Result["box"]} box */
function placeOnPicture(part, width, height, [left, top, right, bottom]) {
  const shown = element("video").hidden ? element("shown") : element("video");
  const scale = Math.min(shown.clientWidth / width, shown.clientHeight / height); // as object-fit: contain
  const [x, y] = [(shown.clientWidth - width * scale) / 2, (shown.clientHeight - height * scale) / 2];
  const sides = { left: x + left * scale, top: y + top * scale, width: (right - left) * scale, height: (bottom - top) * scale };
  for (const [side, length] of Object.entries(sides)) part.style.setProperty(side, `${length}px`);
}

/** From dark blue by magenta to light yellow, also for eyes that do not tell red from green. @param {number} value From 0 to 1. */
function heat(value) {
  const colours = [[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64], [240, 249, 33]]; // prettier-ignore
  const at = Math.min(value * 4, 3.999);
  const [a, b] = [colours[Math.floor(at)], colours[Math.floor(at) + 1]];
  return [0, 1, 2].map((i) => a[i] + (at % 1) * (b[i] - a[i])).concat(255);
}

/**
 * @param {HTMLSelectElement} select
 * @param {[value: string, text: string, group?: string][]} options Groups stand in the order of their first options; those of no group come last.
 */
export function fillSelect(select, options) {
  select.replaceChildren();
  const groups = [...new Set(options.map(([, , group]) => group))].sort((a, b) => Number(!a) - Number(!b));
  for (const group of groups) {
    const list = group ? select.appendChild(document.createElement("optgroup")) : select;
    if (group) Object.assign(list, { label: group });
    list.append(...options.filter((option) => option[2] === group).map(([value, text]) => new Option(text, value)));
  }
}

/** @param {string} id @param {string} text Nothing hides it. */
export function showNote(id, text) {
  element(id).textContent = text;
  element(id).hidden = !text;
}

/** Pictures of few pixels are shown as such. @param {Event} event */
export function showPixels({ currentTarget }) {
  const image = /** @type {HTMLImageElement} */ (currentTarget);
  image.classList.toggle("tiny", image.naturalWidth < 64);
}
