// The page: from what a person does to what the worker is asked, and back.

import { listBuilds, supportsThreads } from "./builds.js";
import { classOutput, isDense, listSizes, readBundle, readFile, runnable } from "./bundle.js";
import { Camera } from "./camera.js";
import { Client, ClosedError } from "./client.js";
import { checkFile } from "./decode.js";
import { drawable, explain } from "./maps.js";
import { best } from "./numbers.js";
import { keepAhead, offerInstall, startKeeping } from "./offline.js";
import { giveUpChoice, isLatest, latestChoice, listenForPictures, listSamples, settleChoice, startChoice } from "./pictures.js";
import { element, fillSelect, hideProblem, legible, showBoxes, showClasses, showMap, showNote, showPixels, showProblem, showRunning, showTimes } from "./view.js";

const FOLDER = "bundle/";
const LIVE_TIMES = 300; // the pictures of a live run that median and p90 are of

const controls = {
  recipe: /** @type {HTMLSelectElement} */ (element("recipe")),
  size: /** @type {HTMLSelectElement} */ (element("size")),
  accelerator: /** @type {HTMLSelectElement} */ (element("accelerator")),
  threads: /** @type {HTMLInputElement} */ (element("threads")),
  topK: /** @type {HTMLInputElement} */ (element("top-k")),
  threshold: /** @type {HTMLInputElement} */ (element("threshold")),
  map: /** @type {HTMLSelectElement} */ (element("map-output")),
  strength: /** @type {HTMLInputElement} */ (element("map-strength")),
};
const camera = new Camera(element("video"));

/** Of the bundle, at each size that its files take. @type {import("./bundle.js").Description[]} */
let sizes;
/** At the chosen one. @type {import("./bundle.js").Description} */
let description;
/** @typedef {{client: Client, download: AbortController, ready: Promise<boolean>}} Model */
/** The model that runs, or will: it is there before its file is. @type {Model | null} */
let model = null;
/** @typedef {{blob: Blob, name: string}} Picture */
/** The picture on the page, unless the camera runs. @type {Picture | null} */
let picture = null;
/** @type {import("./engine.js").Result & {of: string} | null} */
let result = null;
/** Whether the worker has a picture of the page, and which, with which model and map. */
let busy = false;
/** @type {{picture: Picture, model: Model, map: number | null} | null} */
let asked = null;
/** What this browser can do here. */
const can = { gpu: false, threads: false };

async function start() {
  await startKeeping();
  sizes = listSizes(await readBundle(FOLDER));
  description = sizes[0];
  await findAbilities();
  fillControls();
  listen();
  await Promise.all([loadModel(), listSamples(setPicture)]);
  element("offline").textContent = await keepAhead(FOLDER, description, await listBuilds(can.gpu)).catch(() => ""); // Storage may be full or forbidden.
}

async function findAbilities() {
  can.gpu = Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
  can.threads = await supportsThreads();
}

/** @param {import("./bundle.js").Description} description */
function inputSize({ input }) {
  const [, height, width] = input.shape;
  return `${height}×${width}`;
}

function describeModel() {
  const { model, labels, output_kind } = description;
  element("model").textContent = legible(`${model} · ${labels ? `${labels.length} classes` : output_kind} · ${inputSize(description)}`);
}

function fillControls() {
  const { recommended, outputs, output_kind: kind } = description;
  describeModel();
  fillSelect(controls.size, sizes.map((size, i) => [String(i), inputSize(size)])); // prettier-ignore
  element("size-part").hidden = sizes.length < 2;
  const targets = { cpu: "wasm", gpu: "WebGPU" };
  fillSelect(
    controls.recipe,
    runnable(description).map(({ recipe, bytes }) => {
      const best = Object.entries(targets).filter(([target]) => recommended[target] === recipe).map(([, name]) => name); // prettier-ignore
      return [recipe, `${recipe}, ${(bytes / 1e6).toFixed(1)} MB`, best.length ? `Best for ${best.join(" and ")}` : undefined];
    }),
  );
  const recipes = runnable(description).map(({ recipe }) => recipe);
  controls.recipe.value = recommended.cpu ?? recipes[0];
  controls.recipe.disabled = controls.accelerator.disabled = false;
  if (!can.gpu) {
    /** @type {HTMLOptionElement} */ (controls.accelerator.querySelector("[value=webgpu]")).disabled = true;
    const remedy = globalThis.isSecureContext ? "Use a browser and a device with WebGPU" : "Open the page by https or localhost";
    showNote("accelerator-note", `WebGPU is not available: this browser gives no GPU here. ${remedy}.`);
  }
  const cores = navigator.hardwareConcurrency || 1;
  controls.threads.max = String(cores);
  controls.threads.value = String(can.threads ? Math.min(4, cores) : 1);
  const takes = globalThis.crossOriginIsolated ? "a browser with relaxed SIMD" : "https or localhost, and the headers that `swin-keras serve` sends";
  if (!can.threads) showNote("threads-note", `One thread only: more take ${takes}.`);
  enableThreads();
  const dense = isDense(kind);
  element("top-k-part").hidden = element("threshold-part").hidden = !classOutput(description) && !dense;
  if (dense) nameResults(kind);
  const drawn = drawable(description);
  element("map-part").hidden = !drawn.length && kind !== "masks";
  element("map-output-part").hidden = !drawn.length;
  fillSelect(controls.map, [["", "none"], ...drawn.map(({ name }) => /** @type {[string, string]} */ ([String(outputs.findIndex((o) => o.name === name)), name]))]);
  controls.map.value = controls.map.options[controls.map.options.length - 1].value;
  explainMap();
}

/** What stands where classes stand, and how much of it at first, as in Python. @param {string} kind */
function nameResults(kind) {
  element("classes-title").textContent = kind === "boxes" ? "Objects" : "Classes by area";
  element("classes-note").textContent = kind === "boxes" ? "The objects in a picture appear here." : "The classes of a picture's pixels appear here.";
  element("top-k-name").textContent = kind === "boxes" ? "Objects shown" : "Classes shown";
  controls.topK.value = kind === "boxes" ? "100" : "10";
  controls.threshold.value = kind === "boxes" ? "50" : "0";
  element("threshold-value").textContent = `${controls.threshold.value} %`;
}

/** @param {HTMLInputElement} control */
function atLeastOne({ value }) {
  return Math.max(1, Math.floor(Number(value)) || 1);
}

function enableThreads() {
  controls.threads.disabled = !can.threads || controls.accelerator.value !== "wasm";
}

/** Loads the chosen recipe for the chosen accelerator into a new worker. */
async function loadModel() {
  model?.download.abort();
  model?.client.close();
  hideProblem();
  const [client, download] = [new Client(), new AbortController()];
  const [recipe, accelerator] = [controls.recipe.value || String(description.recommended.cpu), /** @type {import("./engine.js").Accelerator} */ (controls.accelerator.value)];
  const threads = Number(controls.threads.value);
  const own = { client, download, ready: prepare(client, download.signal, recipe, accelerator, threads) };
  model = own;
  if (await own.ready) await classify();
}

/**
 * @param {Client} client @param {AbortSignal} signal @param {string} recipe @param {import("./engine.js").Accelerator} accelerator @param {number} threads
 * @returns {Promise<boolean>} Whether it runs.
 */
async function prepare(client, signal, recipe, accelerator, threads) {
  const current = () => model?.client === client;
  try {
    showRunning("loading", `Loading ${recipe} …`, 0);
    /** @type {import("./bundle.js").Progress} */
    const progress = (received, expected) => {
      if (current()) showRunning("loading", `Loading ${recipe} …`, Math.min(1, received / expected));
    };
    const content = await readFile(FOLDER, description, recipe, progress, signal);
    if (!current()) return false;
    showRunning("loading", `Preparing ${recipe} for ${accelerator} …`);
    showRan(await client.load({ model: content, description, recipe, accelerator, threads }), recipe);
    return true;
  } catch (error) {
    if (current() && !(error instanceof ClosedError)) {
      showRunning("none", "Nothing runs.");
      showProblem(error, loadModel);
    }
    return false;
  }
}

/** @param {import("./engine.js").Running} running @param {string} recipe */
function showRan({ accelerator, whole, threads, adapter }, recipe) {
  const wanted = controls.accelerator.value;
  const where = accelerator === "webgpu" ? `WebGPU (${adapter})` : `wasm with ${threads} thread${threads > 1 ? "s" : ""}`;
  let extent = accelerator === "webgpu" ? "all of the graph" : "all of the graph, by XNNPACK";
  if (!whole) extent = accelerator === "webgpu" ? "not all of the graph: the rest runs on the CPU" : "not all of the graph by XNNPACK: the rest runs in plain kernels";
  const instead = wanted === accelerator ? "" : `, in place of ${wanted}, which does not take all of the graph`;
  showRunning(whole && !instead ? "ready" : "partly", `${recipe} runs on ${where}${instead}: ${extent}.`);
  Object.assign(element("running").dataset, { recipe, accelerator, wanted, whole, threads, size: controls.size.value });
}

/** @param {Blob} blob @param {string} name */
async function setPicture(blob, name) {
  stopCamera();
  clearResult();
  picture = null;
  const own = latestChoice();
  try {
    await checkFile(blob, name); // The browser decodes whatever it shows.
  } catch (error) {
    if (isLatest(own)) refusePicture(error);
    return;
  }
  if (!isLatest(own)) return;
  picture = { blob, name };
  const shown = /** @type {HTMLImageElement} */ (element("shown"));
  URL.revokeObjectURL(shown.src);
  shown.src = URL.createObjectURL(blob);
  shown.alt = `Picture ${name}`;
  showStage("shown");
  await classify();
}

/** @param {unknown} error */
function refusePicture(error) {
  element("drop").classList.remove("filled");
  showNote("classes-note", "No result.");
  showProblem(error);
}

/** @param {"shown" | "video"} which */
function showStage(which) {
  element("drop").classList.add("filled");
  element("frame").hidden = false;
  element("shown").hidden = which !== "shown";
  element("video").hidden = which !== "video";
  showMap(null, description.preprocessing.crop, 0);
}

/** Nothing stands beside a picture that is not of it. */
function clearResult() {
  result = null;
  delete element("classes").dataset.picture;
  showClasses([], "");
  showBoxes(null, []);
  showTimes([], "");
}

/** Classifies the picture on the page, and what is chosen meanwhile afterwards: only ever the newest. */
async function classify() {
  if (busy) return;
  busy = true;
  while (picture && model && !isAsked()) {
    asked = { picture, model, map: chosenMap() };
    await classifyOnce(picture, model, asked.map);
  }
  busy = false;
}

/** Whether what was asked last is still what is chosen. */
function isAsked() {
  return asked !== null && asked.picture === picture && asked.model === model && asked.map === chosenMap();
}

/** @param {Picture} picture @param {Model} model @param {number | null} map */
async function classifyOnce({ blob, name }, { client, ready }, map) {
  try {
    if (!(await ready)) return;
    const answer = await client.run({ picture: blob, name, map });
    if (!isAsked()) return;
    result = { ...answer, of: name };
    hideProblem();
    showResult();
    showTimes([result.ms], "");
  } catch (error) {
    if (error instanceof ClosedError || !isAsked()) return;
    clearResult();
    showNote("classes-note", "No result.");
    showFailure(error, () => {
      asked = null;
      classify();
    });
  }
}

/** Says why a picture has no classes. Where the worker ended, another has to come first. @param {unknown} error @param {() => void} retry */
function showFailure(error, retry) {
  const ended = model?.client.ended;
  if (ended) showRunning("none", "Nothing runs.");
  showProblem(error, ended ? loadModel : retry);
}

function chosenMap() {
  return controls.map.value === "" ? null : Number(controls.map.value);
}

function showResult() {
  if (!result) return;
  const { found, mask } = result;
  const values = result.probabilities ?? mask?.shares;
  const count = atLeastOne(controls.topK);
  const threshold = Number(controls.threshold.value) / 100;
  let note = "";
  if (!values && !found) note = "This model gives features, not classes: see the map on the picture.";
  const shown = values
    ? best(values, count, threshold).filter((index) => !mask || values[index]).map((index) => ({ index, probability: values[index] })) // prettier-ignore
    : (found ?? []).filter(({ probability }) => probability >= threshold).slice(0, count);
  if ((values || found) && !shown.length) note = `${found ? "Nothing" : "No class"} reaches ${controls.threshold.value} %.`;
  if (result.hidden) note += " Where the picture is transparent, Python may read other colours; of PNG files it reads the same.";
  const rows = shown.map((answer) => ({ ...answer, label: description.labels?.[answer.index] ?? `class ${answer.index}` }));
  showClasses(rows, note.trim(), Boolean(mask || found));
  showBoxes(result, rows);
  const { recipe, accelerator, size } = element("running").dataset;
  Object.assign(element("classes").dataset, { picture: result.of, recipe, accelerator, size });
  drawMapOnPicture();
}

function drawMapOnPicture() {
  const background = (description.labels ?? []).findIndex((label) => label.toLowerCase() === "background");
  showMap(result, description.preprocessing.crop, Number(controls.strength.value), background);
  const chosen = chosenMap();
  element("map").dataset.output = chosen !== null && result?.map ? description.outputs[chosen].name : "";
}

/** Until there is another. */
function dropMap() {
  if (result) result.map = null;
  drawMapOnPicture();
}

function explainMap() {
  const chosen = chosenMap();
  showNote("map-note", chosen === null ? "" : `Light: ${explain(description.outputs[chosen])}.`);
}

async function toggleCamera() {
  if (camera.running) return stopCamera();
  hideProblem();
  const own = startChoice();
  let stream;
  try {
    stream = await camera.start();
  } catch (error) {
    if (!isLatest(own)) return;
    giveUpChoice();
    return showProblem(error, toggleCamera);
  }
  if (!stream) return;
  if (!isLatest(own)) return camera.stop(); // Something else was chosen meanwhile.
  settleChoice(null);
  clearResult();
  picture = null;
  showStage("video");
  element("camera").setAttribute("aria-pressed", "true");
  element("classes").setAttribute("aria-live", "off"); // Nobody can listen to ten results a second.
  try {
    await watch(stream);
  } catch (error) {
    stopCamera();
    showFailure(error, toggleCamera);
  }
}

/** Takes the camera's last picture and its classes away, if it runs. */
function stopCamera() {
  const ran = camera.running;
  camera.stop();
  if (!ran) return;
  picture = null;
  clearResult();
  element("drop").classList.remove("filled");
  element("camera").setAttribute("aria-pressed", "false");
  element("classes").setAttribute("aria-live", "polite");
}

/** Classifies what the camera sees, one picture at a time. @param {MediaStream} stream */
async function watch(stream) {
  /** @type {import("./engine.js").Result["ms"][]} */
  const times = [];
  let [seen, dropped] = [0, 0];
  let last = model;
  for await (const next of camera.pictures(stream)) {
    const [running, map] = [model, chosenMap()];
    if (!running || !(await running.ready)) {
      next.picture.close();
      await new Promise((wait) => setTimeout(wait, 200));
      continue;
    }
    if (running !== last) times.length = seen = dropped = 0; // The times of a model are its own.
    last = running;
    let answer;
    try {
      answer = await running.client.run({ picture: next.picture, name: "camera", map });
    } catch (error) {
      if (error instanceof ClosedError || !camera.shows(stream)) continue;
      throw error;
    }
    if (!camera.shows(stream)) return;
    if (running !== model || map !== chosenMap()) continue;
    result = { ...answer, of: "camera" };
    times.push(result.ms);
    if (times.length > LIVE_TIMES) times.shift();
    seen++;
    dropped += next.dropped;
    showResult();
    showTimes(times, `· live: ${seen} pictures classified, ${dropped} passed over`);
  }
}

function listen() {
  listenForPictures(setPicture);
  element("camera").onclick = toggleCamera;
  element("dismiss").onclick = hideProblem;
  element("shown").onload = (event) => {
    showPixels(event);
    showResult();
  };
  element("shown").onerror = () => element("drop").classList.remove("filled");

  controls.recipe.onchange = loadModel;
  controls.size.onchange = () => {
    description = sizes[Number(controls.size.value)];
    describeModel();
    dropMap();
    loadModel();
  };
  controls.accelerator.onchange = () => {
    enableThreads();
    loadModel();
  };
  controls.threads.onchange = () => {
    const most = Number(controls.threads.max);
    controls.threads.value = String(Math.min(most, atLeastOne(controls.threads)));
    loadModel();
  };
  controls.topK.oninput = showResult;
  controls.topK.onchange = () => (controls.topK.value = String(atLeastOne(controls.topK)));
  controls.threshold.oninput = () => {
    element("threshold-value").textContent = `${controls.threshold.value} %`;
    showResult();
  };
  controls.strength.oninput = drawMapOnPicture;
  controls.map.onchange = () => {
    explainMap();
    dropMap();
    classify();
  };
  addEventListener("resize", showResult);
  offerInstall(element("install"));
}

start().catch((error) => {
  showRunning("none", "Nothing runs.");
  element("model").textContent = "No bundle";
  showProblem(error, () => location.reload());
});
