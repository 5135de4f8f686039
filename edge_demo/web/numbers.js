// Probabilities, the best of them, and the middle of many times.

import { InputError } from "./errors.js";

/** How far a probability may be from 0 to 1: what the rounding of a quantized softmax may add. */
const ROUNDING = 0.01;

/**
 * @param {ArrayLike<number>} logits
 * @returns {Float64Array}
 */
export function softmax(logits) {
  const most = Array.from(logits).reduce((a, b) => Math.max(a, b));
  const values = Float64Array.from(logits, (logit) => Math.exp(logit - most));
  const sum = values.reduce((a, b) => a + b);
  return values.map((value) => value / sum);
}

/**
 * As classifier.py, before anything is drawn of them.
 * @param {Float32Array | Float64Array} values @param {string} recipe @param {string} name Of the picture.
 * @throws {InputError} If one is NaN or infinite.
 */
export function checkNumbers(values, recipe, name) {
  if (values.every(Number.isFinite)) return;
  const remedy = "Choose wasm, or another recipe, or export the bundle again.";
  throw new InputError(`expected numbers from the recipe '${recipe}' for '${name}', received NaN or infinity. ${remedy}`);
}

/**
 * As classifier.py.
 * @param {Float64Array} values @param {string} recipe
 * @throws {InputError} If one is no probability.
 */
export function checkProbabilities(values, recipe) {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  if (least >= -ROUNDING && most <= 1 + ROUNDING) return;
  const [from, to] = [least, most].map((value) => Number(value.toPrecision(4)));
  const expected = `expected values from 0 to 1 from the recipe '${recipe}', since model.json says that its output_kind is probabilities`;
  throw new InputError(`${expected}, received ${from} to ${to}. Export the bundle again.`);
}

/**
 * @param {Float64Array} probabilities @param {number} count @param {number} threshold
 * @returns {number[]} Indices of the most likely classes, best first; of two that are equal the first.
 */
export function best(probabilities, count, threshold) {
  const indices = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  return indices.slice(0, count).filter((index) => probabilities[index] >= threshold);
}

/**
 * @param {number[]} values @param {number} fraction 0.5 for the median.
 * @returns {number} As numpy's percentile: between two values in proportion.
 */
export function quantile(values, fraction) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * fraction;
  const below = Math.floor(at);
  return sorted[below] + (at - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}
