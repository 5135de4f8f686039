// Runs a model by LiteRT, in a worker: one build of the runtime and one file. For another of either, start another worker.

import { supportsThreads, supportsWaiting } from "./builds.js";
import { classOutput, isDense } from "./bundle.js";
import { decodeBitmap, decodeFile } from "./decode.js";
import { findBoxes, findMask } from "./dense.js";
import { InputError } from "./errors.js";
import { loadAndCompile, loadLiteRt, Tensor } from "./litert/core.js";
import { drawMap } from "./maps.js";
import { checkNumbers, checkProbabilities, softmax } from "./numbers.js";
import { preprocess } from "./preprocess.js";

/** @typedef {"wasm" | "webgpu"} Accelerator */
/**
 * @typedef {object} LoadRequest
 * @property {"load"} kind
 * @property {ArrayBuffer} model Of a .tflite file.
 * @property {import("./bundle.js").Description} description
 * @property {string} recipe @property {Accelerator} accelerator @property {number} threads
 */
/** @typedef {{accelerator: Accelerator, whole: boolean, threads: number, adapter: string}} Running What really runs, and whether all of the graph. */
/**
 * @typedef {object} RunRequest
 * @property {"run"} kind
 * @property {Blob | ImageBitmap} picture @property {string} name
 * @property {number | null} map Which of the description's outputs to draw.
 */
/**
 * @typedef {object} Result
 * @property {Float64Array | null} probabilities `null` for a model without classes.
 * @property {import("./dense.js").Found[] | null} found `null` for a model that finds no boxes.
 * @property {import("./dense.js").Mask | null} mask `null` for a model without one.
 * @property {import("./maps.js").HeatMap | null} map
 * @property {{decode: number, preprocess: number, inference: number}} ms
 * @property {number} width @property {number} height Of the picture.
 * @property {import("./resample.js").Box} box The part of it that the model sees.
 * @property {boolean} hidden Whether it has colours behind transparency that were not read.
 */

const RUNTIME = new URL("litert/wasm/", import.meta.url).href;

/** @typedef {import("./litert/core.js").SignatureRunner} SignatureRunner */
/** @type {{description: LoadRequest["description"], recipe: string, runner: SignatureRunner, order: number[]} | null} */
let loaded = null;
/** What the runtime said of what went wrong. @type {string[]} */
let complaints = [];

/**
 * Answers a message of client.js.
 * @param {LoadRequest | RunRequest} request
 * @returns {Promise<Running | Result>}
 */
export function answer(request) {
  return request.kind === "load" ? load(request) : run(request);
}

/** @param {LoadRequest} request @returns {Promise<Running>} */
async function load({ model, description, recipe, accelerator, threads }) {
  if (accelerator === "webgpu" && recipe === "int16x8") {
    throw new InputError("expected a recipe that WebGPU computes right, received 'int16x8', which Chromium's computes wrong. Choose wasm, or another recipe.");
  }
  const adapter = accelerator === "webgpu" ? await findAdapter() : "";
  threads = accelerator === "wasm" && (await supportsThreads()) ? threads : 1;
  // LiteRT looks for its files beside the script of the page, which here is the worker's. It reads this global.
  Object.assign(globalThis, {
    Module: {
      locateFile: (/** @type {string} */ name) => RUNTIME + name,
      mainScriptUrlOrBlob: `${RUNTIME}litert_wasm_threaded_internal.js`,
      print: () => {},
      printErr: (/** @type {string} */ line) => /^(ERROR|E\d)/.test(line) && complaints.push(line),
    },
  });
  try {
    await loadLiteRt(RUNTIME, { threads: threads > 1, jspi: accelerator === "webgpu" && (await supportsWaiting()) });
  } catch (error) {
    throw new InputError("expected LiteRT from the server, which did not come. Check the connection, or choose the accelerator that ran before.", reasons(error));
  }
  const { shape } = description.input;
  let compiled;
  try {
    compiled = await loadAndCompile(new Uint8Array(model), {
      accelerator,
      cpuOptions: { numThreads: threads },
      gpuOptions: { precision: recipe === "float16" ? "fp16" : "fp32" },
    });
    const runner = description.signature === undefined ? compiled : compiled.signatures[description.signature];
    if (!runner) {
      throw new InputError(`expected '${description.signature}' in the file of '${recipe}', as model.json says, which lacks it. Export the bundle again.`);
    }
    loaded = { description, recipe, runner, order: checkShapes(description, runner, recipe) };
    await invoke(new Float32Array(shape.reduce((a, b) => a * b))); // The first run prepares weights and shaders.
  } catch (error) {
    if (error instanceof InputError) throw error;
    const remedy = accelerator === "webgpu" ? "Choose wasm, or another recipe" : "Choose another recipe, or export the bundle again";
    throw new InputError(`expected a file that runs on ${accelerator} for the recipe '${recipe}', received one that does not. ${remedy}.`, reasons(error));
  }
  return { accelerator: compiled.options.accelerator === "webgpu" ? "webgpu" : "wasm", whole: compiled.isFullyAccelerated, threads, adapter };
}

/** @param {RunRequest} request @returns {Promise<Result>} */
async function run({ picture, name, map }) {
  if (!loaded) throw new InputError("expected a model, none is loaded. Choose a recipe.");
  const { description, recipe } = loaded;
  const started = performance.now();
  const { pixels, hidden } = await (picture instanceof Blob ? decodeFile(picture, name) : decodeBitmap(picture));
  const decoded = performance.now();
  const { input, box } = preprocess(pixels, description.preprocessing);
  const prepared = performance.now();
  let outputs;
  try {
    outputs = await invoke(input);
  } catch (error) {
    throw new InputError(`expected the model to run on '${name}', which failed. Choose the recipe again, or wasm.`, reasons(error));
  }
  const finished = performance.now();
  const classes = classOutput(description);
  const scores = classes && outputs[description.outputs.indexOf(classes)];
  const isProbability = description.output_kind === "probabilities" || classes?.name === "probabilities";
  const probabilities = scores ? (isProbability ? Float64Array.from(scores) : softmax(scores)) : null;
  const drawn = map === null ? null : drawMap(description.outputs[map], outputs[map], description.preprocessing.crop);
  const kind = description.output_kind;
  for (const values of [probabilities, drawn?.values, ...(isDense(kind) ? outputs : [])]) if (values) checkNumbers(values, recipe, name);
  if (probabilities) checkProbabilities(probabilities, recipe);
  return {
    probabilities,
    found: kind === "boxes" ? findBoxes(outputs[0], outputs[1]) : null,
    mask: kind === "masks" ? findMask(outputs[0], description.outputs[0].shape) : null,
    map: drawn,
    ms: { decode: decoded - started, preprocess: prepared - decoded, inference: finished - prepared },
    width: pixels.width,
    height: pixels.height,
    box,
    hidden,
  };
}

/** Returns the outputs in the order of model.json. @param {Float32Array} input */
async function invoke(input) {
  const { description, runner, order } = /** @type {NonNullable<typeof loaded>} */ (loaded);
  const tensor = new Tensor(input, description.input.shape);
  const before = complaints.length;
  const results = await runner.run([tensor]);
  const values = [];
  // A copy of each: it may be a view of the runtime's memory.
  for (const at of order) values.push(Float32Array.from(/** @type {Float32Array} */ (await results[at].data())));
  for (const used of [tensor, ...results]) used.delete();
  if (complaints.length > before) throw new Error("the run failed"); // The runtime says so in words alone, and gives zeros.
  return values;
}

/**
 * Returns where in the file's outputs those of model.json are.
 * @param {LoadRequest["description"]} description @param {SignatureRunner} runner @param {string} recipe
 */
function checkShapes(description, runner, recipe) {
  const details = runner.getOutputDetails();
  const order = description.outputs.map(({ name, index }) => {
    const named = details.findIndex((output) => output.name === name);
    return named >= 0 ? named : index;
  });
  const has = [runner.getInputDetails()[0].shape, ...order.map((at) => details[at]?.shape ?? [])].map((shape) => `[${[...shape].join(", ")}]`);
  const described = [description.input.shape, ...description.outputs.map(({ shape }) => shape)].map((shape) => `[${shape.join(", ")}]`);
  if (has.join() !== described.join()) {
    const expected = `expected input and outputs of ${described.join(" and ")}, as model.json says`;
    throw new InputError(`${expected}; the file of '${recipe}' has ${has.join(" and ")}. Export the bundle again.`);
  }
  return order;
}

async function findAdapter() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) {
    throw new InputError("expected a GPU, received none: this browser offers no WebGPU here. Choose wasm, or open the page in a browser with WebGPU.");
  }
  const { description, device, architecture, vendor } = adapter.info;
  return description || device || [vendor, architecture].filter(Boolean).join(" ") || "GPU";
}

/** @param {unknown} error */
function reasons(error) {
  return [...complaints, error instanceof Error ? error.message : String(error)].join("\n").slice(0, 2000);
}
