// The ways in which a picture comes to the page: a file that is opened, dropped or pasted, or a sample.

import { InputError } from "./errors.js";
import { element, showPixels, showProblem } from "./view.js";

/** @typedef {(picture: Blob, name: string) => unknown} Give Is told of each picture. */

/** Counts choices: what comes after another choice is no longer wanted. */
let choices = 0;
/** The sample whose picture is on the page. @type {string | null} */
let sample = null;

/** Begins the choice of a picture, which may take a while to come. @returns {number} Which choice it is. */
export function startChoice() {
  return ++choices;
}

/** What is chosen now, to be asked about later. */
export function latestChoice() {
  return choices;
}

/** @param {number} choice */
export function isLatest(choice) {
  return choice === choices;
}

/** The picture is there. @param {string | null} name `null`: it is no sample. */
export function settleChoice(name) {
  sample = name;
  markSample(name);
}

/** There is none: what was on the page before stays. */
export function giveUpChoice() {
  markSample(sample);
}

/** @param {Give} give */
export function listenForPictures(give) {
  const file = /** @type {HTMLInputElement} */ (element("file"));
  element("open").onclick = () => file.click();
  file.onchange = () => {
    openFirst(file.files, give);
    file.value = ""; // The same file may be opened again.
  };
  element("paste").onclick = () => paste(give);
  element("paste").hidden = !navigator.clipboard?.read;
  document.addEventListener("paste", ({ clipboardData }) => openFirst(clipboardData?.files, give));
  const drop = element("drop");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => !event.relatedTarget && drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (openFirst(event.dataTransfer?.files, give)) return;
    showProblem(new InputError("expected a picture file, received a link or text. Save the picture of another page on this device first, then open the file."));
  });
}

/** Shows the samples that the server has. @param {Give} give */
export async function listSamples(give) {
  const listed = await fetch("samples.json").then((answer) => (answer.ok ? answer.json() : [])).catch(() => []); // prettier-ignore
  /** @type {string[]} */
  const names = Array.isArray(listed) ? listed : [];
  element("samples-part").hidden = !names.length;
  element("samples").replaceChildren(
    ...names.map((name) => {
      const item = document.createElement("li");
      const button = item.appendChild(document.createElement("button"));
      button.type = "button";
      button.dataset.name = name;
      button.setAttribute("aria-pressed", "false");
      const image = button.appendChild(new Image());
      Object.assign(image, { alt: `Sample ${name}`, draggable: false, loading: "lazy", onload: showPixels, src: `samples/${encodeURIComponent(name)}` });
      button.onclick = () => openSample(name, give);
      return item;
    }),
  );
}

/** @param {string} name @param {Give} give */
async function openSample(name, give) {
  const own = startChoice();
  markSample(name);
  try {
    const answer = await fetch(`samples/${encodeURIComponent(name)}`);
    if (!answer.ok) throw new InputError(`expected the sample '${name}', which is no longer there. Reload the page.`);
    const picture = await answer.blob();
    if (!isLatest(own)) return;
    settleChoice(name);
    await give(picture, name);
  } catch (error) {
    if (!isLatest(own)) return;
    giveUpChoice();
    const offline = new InputError(`expected the sample '${name}' from the server, which does not answer, and this browser has not kept it. Open a file.`);
    showProblem(error instanceof InputError ? error : offline, () => openSample(name, give));
  }
}

/** @param {string | null} name */
function markSample(name) {
  const buttons = /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("#samples button"));
  for (const button of buttons) button.setAttribute("aria-pressed", String(button.dataset.name === name));
}

/** @param {FileList | null | undefined} files @param {Give} give @returns {boolean} Whether there is one. */
function openFirst(files, give) {
  const file = files?.[0];
  if (!file) return false;
  startChoice();
  settleChoice(null);
  give(file, file.name);
  return true;
}

/** @param {Give} give */
async function paste(give) {
  const own = startChoice();
  try {
    const picture = await readClipboard();
    if (!isLatest(own)) return;
    settleChoice(null);
    await give(picture, "pasted picture");
  } catch (error) {
    if (!isLatest(own)) return;
    giveUpChoice();
    const denied = new InputError("expected permission to read the clipboard. Allow it for this address, or press Ctrl+V.");
    showProblem(error instanceof InputError ? error : denied, () => paste(give));
  }
}

async function readClipboard() {
  for (const item of await navigator.clipboard.read()) {
    const kind = item.types.find((type) => type.startsWith("image/"));
    if (kind) return item.getType(kind);
  }
  throw new InputError("expected a picture in the clipboard, found none. Copy a picture, then paste again.");
}
