// Probabilities, the best of them, and the middle of many times.

import { InputError } from "./errors.js";

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
