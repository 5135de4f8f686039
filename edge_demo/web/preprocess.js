// From pixels to the input of a model, as a bundle's model.json asks for. The same as preprocess.py, number for number.

import { resize } from "./resample.js";

/** @typedef {import("./resample.js").Pixels} Pixels */
/** @typedef {import("./resample.js").Box} Box */
/**
 * @typedef {object} Preprocessing
 * @property {"exact" | "cover"} mode
 * @property {[number, number]} resize Height and width.
 * @property {[number, number]} crop Height and width.
 * @property {"bilinear" | "bicubic"} interpolation
 * @property {number[]} mean @property {number[]} std Of red, green and blue.
 */

/**
 * Says which part of a picture the model sees.
 * @param {number} width @param {number} height Of the picture.
 * @param {Preprocessing} preprocessing
 * @returns {Box}
 */
export function visibleBox(width, height, { mode, resize: [down, across], crop }) {
  if (mode === "cover") {
    // As much of the picture's shape as covers `resize`; the other side is truncated, as torchvision does.
    if (down * width >= across * height) across = Math.floor((down * width) / height);
    else down = Math.floor((across * height) / width);
  }
  const top = roundHalfEven((down - crop[0]) / 2);
  const left = roundHalfEven((across - crop[1]) / 2);
  const scaleX = width / across;
  const scaleY = height / down;
  return [left * scaleX, top * scaleY, Math.min((left + crop[1]) * scaleX, width), Math.min((top + crop[0]) * scaleY, height)];
}

/**
 * Resizes, crops and normalizes a picture.
 * @param {Pixels} picture
 * @param {Preprocessing} preprocessing
 * @returns {{input: Float32Array, box: Box}} The input, of height times width times 3 values, and the part of the picture that it shows.
 */
export function preprocess(picture, preprocessing) {
  const [height, width] = preprocessing.crop;
  const box = visibleBox(picture.width, picture.height, preprocessing);
  const { data } = resize(picture, width, height, preprocessing.interpolation, box);
  const [mean, std] = [new Float32Array(preprocessing.mean), new Float32Array(preprocessing.std)];
  const input = new Float32Array(data.length);
  for (let i = 0; i < data.length; i++) input[i] = Math.fround(Math.fround(data[i] / 255) - mean[i % 3]) / std[i % 3];
  return { input, box };
}

/** Rounds as Python does. @param {number} x */
function roundHalfEven(x) {
  const nearest = Math.round(x);
  return nearest - x === 0.5 && nearest % 2 !== 0 ? nearest - 1 : nearest;
}
