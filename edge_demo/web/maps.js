// Maps of what a model looks at, from outputs beside or in place of classes: attention weights, or a pyramid of features.

import { isDense } from "./bundle.js";

/** @typedef {{rows: number, columns: number, cell: number, values: Float32Array}} HeatMap From 0 to 1; `cell` is a side in pixels of the input. */
/** @typedef {{name: string, shape: number[]}} Output */

/** Which outputs can be drawn: boxes and masks are so in any case. @param {{output_kind: string, outputs: Output[]}} description */
export function drawable({ output_kind: kind, outputs }) {
  if (isDense(kind)) return [];
  return outputs.filter((output) => isAttention(output) || isGrid(output));
}

/** What a map shows, in words. @param {Output} output */
export function explain(output) {
  if (isAttention(output)) return "how much attention each token receives in its window, mean of all heads";
  return "how far the features of each token are from the picture's mean";
}

/**
 * @param {Output} output @param {Float32Array} values Of it.
 * @param {[number, number]} size Height and width of the model's input.
 * @returns {HeatMap | null}
 */
export function drawMap(output, values, size) {
  if (isAttention(output)) return attentionMap(output, values, size);
  return isGrid(output) ? featureMap(output, values, size) : null;
}

/** @param {Output} output */
function isAttention({ name, shape }) {
  return /^layers_\d+_blocks_\d+_attention$/.test(name) && shape.length === 4 && shape[2] === shape[3];
}

/** @param {Output} output */
function isGrid({ shape, name }) {
  return shape.length === 4 && shape[0] === 1 && shape[1] * shape[2] > 1 && !name.endsWith("_attention");
}

/** @param {Output} output @param {Float32Array} values @param {[number, number]} size @returns {HeatMap} */
function featureMap({ shape: [, rows, columns, channels] }, values, size) {
  const mean = new Float64Array(channels);
  values.forEach((value, i) => (mean[i % channels] += value / (rows * columns)));
  const far = new Float32Array(rows * columns);
  values.forEach((value, i) => (far[Math.floor(i / channels)] += (value - mean[i % channels]) ** 2));
  return { rows, columns, cell: 2 ** Math.round(Math.log2(size[1] / columns)), values: stretch(far.map(Math.sqrt)) };
}

/**
 * Puts the windows of a block back in their places.
 * @param {Output} output Of shape `[windows, heads, tokens, tokens]`. @param {Float32Array} values @param {[number, number]} size
 * @returns {HeatMap | null} `null` where the grid of the block cannot be told.
 */
function attentionMap({ name, shape: [windows, heads, tokens] }, values, size) {
  const [stage, block] = /** @type {RegExpMatchArray} */ (name.match(/\d+/g)).map(Number);
  const place = findGrid(size, stage, windows, tokens);
  if (!place) return null;
  const { rows, columns, cell, window } = place;
  const padded = [Math.ceil(rows / window[0]) * window[0], Math.ceil(columns / window[1]) * window[1]];
  // Every second block looks through windows that are shifted by half of one, unless one window is all there is.
  const shift = [rows, columns].map((side, axis) => (block % 2 && side > window[axis] ? Math.floor(window[axis] / 2) : 0));
  const received = new Float32Array(rows * columns);
  for (let w = 0; w < windows; w++) {
    const across = padded[1] / window[1];
    for (let key = 0; key < tokens; key++) {
      const y = (Math.floor(w / across) * window[0] + Math.floor(key / window[1]) + shift[0]) % padded[0];
      const x = ((w % across) * window[1] + (key % window[1]) + shift[1]) % padded[1];
      if (y >= rows || x >= columns) continue; // padding
      let sum = 0;
      for (let query = 0; query < heads * tokens; query++) sum += values[(w * heads * tokens + query) * tokens + key];
      received[y * columns + x] = sum / (heads * tokens);
    }
  }
  return { rows, columns, cell, values: stretch(received) };
}

/**
 * Finds the grid of tokens of a stage, and its window, from how many windows there are, of how many tokens.
 * @param {[number, number]} size @param {number} stage From 0. @param {number} windows @param {number} tokens
 */
function findGrid(size, stage, windows, tokens) {
  for (const patch of [4, 2, 1, 8, 16]) {
    let [rows, columns] = size.map((side) => Math.ceil(side / patch));
    for (let i = 0; i < stage; i++) [rows, columns] = [Math.ceil(rows / 2), Math.ceil(columns / 2)];
    const fitting = [...Array(tokens).keys()]
      .map((i) => [i + 1, tokens / (i + 1)])
      .filter(([height, width]) => Number.isInteger(width) && Math.ceil(rows / height) * Math.ceil(columns / width) === windows)
      .sort(([h1, w1], [h2, w2]) => Math.abs(h1 - w1) - Math.abs(h2 - w2));
    if (fitting.length) return { rows, columns, cell: patch * 2 ** stage, window: fitting[0] };
  }
  return null;
}

/** From 0 to 1. @param {Float32Array} values */
function stretch(values) {
  const least = values.reduce((a, b) => Math.min(a, b));
  const range = values.reduce((a, b) => Math.max(a, b)) - least || 1;
  return values.map((value) => (value - least) / range);
}
