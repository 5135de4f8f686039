// Reads a bundle: its description, checked before anything relies on it, and its files, checked by sha256. As bundle.py.

import { InputError } from "./errors.js";
import { sha256 } from "./sha256.js";

/**
 * @typedef {object} Description What this app reads of model.json; other keys are ignored.
 * @property {number} format_version
 * @property {string} model
 * @property {{shape: number[], dtype: string, layout: string}} input
 * @property {import("./preprocess.js").Preprocessing} preprocessing
 * @property {string[] | null} labels
 * @property {string} output_kind "logits", "probabilities", "boxes", "masks" or "features".
 * @property {{name: string, index: number, shape: number[]}[]} outputs
 * @property {{recipe: string, file: string, bytes: number, sha256: string}[]} files
 * @property {Record<string, string | null>} recommended
 * @property {any} [signatures] What else its files take: see `listSizes`.
 * @property {string} [signature] The one that is described, where it is not the first of a file.
 */

const FORMAT_VERSION = 1;
/** The signature that runs where none is named. */
const DEFAULT = "serving_default";

/** @typedef {(received: number, expected: number) => void} Progress Is told how many bytes have come. */

/**
 * @param {string} folder Address of the bundle, with a slash at its end.
 * @returns {Promise<Description>}
 * @throws {InputError} If it is missing, damaged or of another format version.
 */
export async function readBundle(folder) {
  const path = `${folder}model.json`;
  const answer = await get(path);
  if (answer.status === 404) {
    throw new InputError(`expected a bundle, received '${folder}', which has no model.json. Serve the folder that \`swin-keras export\` wrote.`);
  }
  let description;
  try {
    description = JSON.parse(await answer.text());
  } catch (error) {
    throw new InputError(`expected JSON in '${path}': ${/** @type {Error} */ (error).message}. Export the bundle again.`);
  }
  const version = description?.format_version;
  if (version !== FORMAT_VERSION) {
    throw new InputError(
      `expected a bundle of format version ${FORMAT_VERSION}, received ${JSON.stringify(version) ?? "none"} in '${path}'. ` +
        "Export the bundle again, or use the version of this app that came with it.",
    );
  }
  const expected = findMissing(description);
  if (expected) throw new InputError(`expected ${expected} in '${path}'. Export the bundle again.`);
  return description;
}

/** The first thing that this app relies on and that a description lacks. @param {any} description @returns {string | undefined} */
function findMissing(description) {
  return EXPECTED.find(([, holds]) => {
    try {
      return !holds(description);
    } catch (error) {
      if (error instanceof TypeError) return true; // Something that is not there.
      throw error;
    }
  })?.[0];
}

/**
 * Describes the bundle at each size of input that its files take, each through a signature of its own. Those that take pixels compute the same.
 * @param {Description} description
 * @returns {Description[]} First the one that is given.
 */
export function listSizes(description) {
  const names = (/** @type {any} */ outputs) => JSON.stringify(outputs.map((/** @type {any} */ output) => output.name));
  const others = Array.isArray(description.signatures) ? description.signatures.filter((signature) => isString(signature?.key) && signature.key !== DEFAULT) : [];
  return [
    description,
    ...others
      .map(({ key, input, preprocessing, outputs }) => ({
        ...description,
        signature: key,
        input,
        preprocessing,
        outputs: isList(outputs, Boolean) ? outputs.map((/** @type {any} */ output, /** @type {number} */ index) => ({ ...output, index })) : [],
      }))
      .filter((other) => !findMissing(other) && names(other.outputs) === names(description.outputs)),
  ];
}

/**
 * Reads the .tflite file of a recipe.
 * @param {string} folder @param {Description} description @param {string} recipe @param {Progress} [progress] @param {AbortSignal} [signal]
 * @returns {Promise<ArrayBuffer>} Whose sha256 is that of model.json.
 * @throws {InputError} If the bundle lacks the recipe or its file, or the file was changed.
 */
export async function readFile(folder, description, recipe, progress, signal) {
  const file = runnable(description).find((file) => file.recipe === recipe);
  if (!file) {
    // A person chooses among those that there are.
    const expected = `expected as recommended.cpu in '${folder}model.json' one of the bundle's recipes ${names(description)}`;
    throw new InputError(`${expected}, received '${recipe}'. Choose one of them, or export the bundle again.`);
  }
  const path = `${folder}${file.file}`;
  const answer = await get(address(folder, file), signal);
  if (answer.status === 404) throw new InputError(`expected the file '${path}', which model.json lists and which is missing. Copy the whole bundle again.`);
  const content = await readAll(answer, path, file.bytes, progress);
  const received = await sha256(content);
  if (received !== file.sha256.toLowerCase()) {
    throw new InputError(
      `expected sha256 ${file.sha256.slice(0, 12)}... for '${path}', received ${received.slice(0, 12)}...: ` +
        "the file was changed after export. Copy or export the bundle again.",
    );
  }
  return content;
}

/**
 * Where a file of a bundle is. Of its sha256 the address has the start, so that a file which was kept of an earlier export is not taken for this one.
 * @param {string} folder @param {{file: string, sha256: string}} file
 */
export function address(folder, { file, sha256 }) {
  return `${folder}${file.split("/").map(encodeURIComponent).join("/")}?sha256=${encodeURIComponent(sha256.slice(0, 12))}`;
}

/** The files that run here: a saved_model is for TensorFlow. @param {Description} description */
export function runnable({ files }) {
  return files.filter(({ file }) => file.endsWith(".tflite"));
}

/** @param {Description} description */
function names(description) {
  return runnable(description).map(({ recipe }) => recipe).join(", "); // prettier-ignore
}

/** Whether a model finds boxes, or the class of each pixel, in place of classes of the whole. @param {string} kind */
export function isDense(kind) {
  return kind === "boxes" || kind === "masks";
}

/**
 * The output that holds the classes, if there is one: features may come beside it, or alone.
 * @param {Description} description
 */
export function classOutput({ output_kind: kind, outputs }) {
  if (isDense(kind)) return undefined;
  const named = outputs.find(({ name, shape }) => ["logits", "probabilities"].includes(name) && shape.length === 2);
  return named ?? (["logits", "probabilities"].includes(kind) ? outputs[0] : undefined);
}

/** How many classes a model knows: of pictures, boxes or pixels. @param {Description} description */
function countClasses(description) {
  const { output_kind: kind, outputs } = description;
  return (isDense(kind) ? outputs[outputs.length - 1] : classOutput(description))?.shape.slice(-1)[0];
}

/** @param {string} path @param {AbortSignal} [signal] */
async function get(path, signal) {
  let answer;
  try {
    answer = await fetch(path, { signal });
  } catch {
    throw new InputError(
      `expected '${path}' from the server, which does not answer, and this browser has not kept it. ` +
        "Check the connection, or choose a recipe and an accelerator that ran before.",
    );
  }
  if (!answer.ok && answer.status !== 404) throw new InputError(`expected '${path}', the server answered ${answer.status}. Try again.`);
  return answer;
}

/**
 * Takes no more memory than for the bytes that model.json tells of, whatever is sent.
 * @param {Response} answer @param {string} path @param {number} expected @param {Progress} [progress]
 */
async function readAll(answer, path, expected, progress) {
  let content;
  try {
    content = new Uint8Array(expected);
  } catch {
    throw new InputError(`expected memory for the ${expected} bytes of '${path}', which this browser does not give. Choose a smaller recipe.`);
  }
  const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (answer.body).getReader();
  const next = () =>
    reader.read().catch(() => {
      throw new InputError(`expected the whole of '${path}', the connection ended after ${received} bytes. Try again.`);
    });
  let received = 0;
  for (let piece = await next(); !piece.done; piece = await next()) {
    if (received + piece.value.length > expected) {
      reader.cancel().catch(() => {});
      throw wrongLength(path, expected, "more");
    }
    content.set(piece.value, received);
    received += piece.value.length;
    progress?.(received, expected);
  }
  if (received < expected) throw wrongLength(path, expected, received);
  return content.buffer;
}

/** @param {string} path @param {number} expected @param {number | string} received */
function wrongLength(path, expected, received) {
  return new InputError(`expected ${expected} bytes of '${path}', received ${received}: the file was changed after export. Copy or export the bundle again.`);
}

/** @param {any} value @param {(item: any) => boolean} kind @param {number} [length] */
function isList(value, kind, length) {
  return Array.isArray(value) && value.every(kind) && (length ? value.length === length : value.length > 0);
}
/** @param {any} value */
const isString = (value) => typeof value === "string";
/** @param {any} value */
const isWhole = (value) => Number.isInteger(value);
/** @param {number} limit @returns {(value: any) => boolean} */
const within = (limit) => (value) => typeof value === "number" && value >= -limit && value <= limit;
/** @param {any} shape @param {number} length Of one picture. */
const isPositive = (shape, length) => isList(shape, (side) => isWhole(side) && side > 0, length) && shape[0] === 1;
/** @param {string} name */
const isInside = (name) => !name.startsWith("/") && !name.split("/").includes("..") && !name.includes("\\");

/** What this app relies on, in the words of the error. @type {[string, (d: any) => boolean][]} */
const EXPECTED = [
  ["a known output_kind", (d) => ["logits", "probabilities", "boxes", "masks", "features"].includes(d.output_kind)],
  [
    "outputs with name, index and shape",
    (d) => isList(d.outputs, (o) => isString(o.name) && isWhole(o.index) && o.index >= 0 && isList(o.shape, isWhole)),
  ],
  [
    "labels that are null or a name for each class",
    (d) => d.labels === null || (isList(d.labels, isString) && (countClasses(d) ?? d.labels.length) === d.labels.length),
  ],
  ["a classifier's output of shape [1, classes]", (d) => isDense(d.output_kind) || d.output_kind === "features" || isList(classOutput(d)?.shape, isWhole, 2)],
  [
    "the outputs boxes, of shape [1, anchors, 4], and scores, of shape [1, anchors, classes],",
    ({ output_kind: kind, outputs: [boxes, scores, ...others] }) =>
      kind !== "boxes" ||
      (boxes.name === "boxes" &&
        scores.name === "scores" &&
        !others.length &&
        [boxes.shape, scores.shape].every((shape) => isPositive(shape, 3)) &&
        String(boxes.shape) === String([1, scores.shape[1], 4])),
  ],
  [
    "one output of shape [1, *crop, classes]",
    ({ output_kind: kind, outputs: [{ shape }, ...others], preprocessing }) =>
      kind !== "masks" || (isPositive(shape, 4) && !others.length && String(shape.slice(1, 3)) === String(preprocessing.crop)),
  ],
  ["recommended recipes", (d) => typeof d.recommended === "object" && d.recommended !== null],
  ["a preprocessing mode of exact or cover", (d) => ["exact", "cover"].includes(d.preprocessing.mode)],
  ["an interpolation of bilinear or bicubic", (d) => ["bilinear", "bicubic"].includes(d.preprocessing.interpolation)],
  [
    "a resize that holds the crop",
    ({ preprocessing: { resize, crop } }) =>
      isList(resize, isWhole, 2) && isList(crop, isWhole, 2) && [0, 1].every((i) => crop[i] > 0 && crop[i] <= resize[i] && resize[i] <= 2 ** 14),
  ],
  [
    "a float32 NHWC input of shape [1, *crop, 3]",
    ({ input, preprocessing: { crop } }) =>
      input.dtype === "float32" && input.layout === "NHWC" && String(input.shape) === String([1, ...crop, 3]),
  ],
  [
    "three numbers as mean and three as std",
    ({ preprocessing: { mean, std } }) => isList(mean, within(1e3), 3) && isList(std, (s) => within(1e3)(s) && s >= 1e-3, 3),
  ],
  [
    "files with recipe, file and sha256, inside the bundle,",
    (d) => isList(d.files, (f) => isList([f.recipe, f.file, f.sha256], isString) && isInside(f.file)) && runnable(d).length > 0,
  ],
  ["the bytes of each file, a positive number,", (d) => runnable(d).every(({ bytes }) => isWhole(bytes) && bytes > 0)],
];
