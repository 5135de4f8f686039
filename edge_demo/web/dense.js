// What detectors and segmenters find. The same as dense.py.

/** @typedef {{index: number, probability: number, box: [number, number, number, number]}} Found Top, left, bottom and right, from 0 to 1 of what the model sees. */
/** @typedef {{rows: number, columns: number, classes: Uint16Array, shares: Float64Array}} Mask The class of each pixel, and each class's part of them. */

/** Of two boxes that overlap by more the less likely is left out. */
const MOST_OVERLAP = 0.5;
const MOST_CANDIDATES = 1000;
/** No control asks for less. */
const LEAST_PROBABILITY = 0.01;

/**
 * @param {Float32Array} boxes Of shape `[anchors, 4]`. @param {Float32Array} scores Of shape `[anchors, classes]`: logits.
 * @returns {Found[]} The most likely first.
 */
export function findBoxes(boxes, scores) {
  const count = boxes.length / 4;
  const classes = scores.length / count;
  /** @type {Found[]} */
  const candidates = [];
  for (let i = 0; i < count; i++) {
    let index = 0;
    for (let c = 1; c < classes; c++) if (scores[i * classes + c] > scores[i * classes + index]) index = c;
    const probability = 1 / (1 + Math.exp(-scores[i * classes + index]));
    const box = /** @type {Found["box"]} */ ([...boxes.subarray(4 * i, 4 * i + 4)]);
    const [top, left, bottom, right] = clip(box);
    if (probability >= LEAST_PROBABILITY && bottom > top && right > left) candidates.push({ index, probability, box });
  }
  candidates.sort((a, b) => b.probability - a.probability).splice(MOST_CANDIDATES);
  /** @type {Found[]} */
  const kept = [];
  for (const next of candidates) if (kept.every(({ box }) => overlap(box, next.box) <= MOST_OVERLAP)) kept.push(next);
  return kept.map(({ box, ...rest }) => ({ ...rest, box: clip(box) }));
}

/** The part of a box that is in the picture; of one beside it nothing. @param {Found["box"]} box */
function clip(box) {
  return /** @type {Found["box"]} */ (box.map((side) => Math.min(Math.max(side, 0), 1)));
}

/** Common area over that of both. @param {Found["box"]} one @param {Found["box"]} other */
function overlap(one, other) {
  const sides = [0, 1].map((axis) => Math.max(0, Math.min(one[axis + 2], other[axis + 2]) - Math.max(one[axis], other[axis])));
  const common = sides[0] * sides[1];
  const area = (/** @type {Found["box"]} */ [top, left, bottom, right]) => (bottom - top) * (right - left);
  return common && common / (area(one) + area(other) - common);
}

/**
 * @param {Float32Array} logits @param {number[]} shape `[1, rows, columns, classes]`.
 * @returns {Mask}
 */
export function findMask(logits, [, rows, columns, count]) {
  const [classes, shares] = [new Uint16Array(rows * columns), new Float64Array(count)];
  for (let i = 0; i < classes.length; i++) {
    for (let c = 1; c < count; c++) if (logits[i * count + c] > logits[i * count + classes[i]]) classes[i] = c;
    shares[classes[i]] += 1 / classes.length;
  }
  return { rows, columns, classes, shares };
}
