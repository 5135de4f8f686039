// Pillow's resampling, to the last bit: the models were trained on pictures that were made smaller with antialiasing, in 8 bits, in two passes.
// Follows libImaging/Resample.c of Pillow 13. Browsers' own scaling differs from it, and from browser to browser.

/** @typedef {{width: number, height: number, data: Uint8Array | Uint8ClampedArray}} Pixels Red, green, blue, row by row. */
/** @typedef {[left: number, top: number, right: number, bottom: number]} Box */

const PRECISION_BITS = 32 - 8 - 2;

/** Each with its support, in pixels of the result. @type {Record<string, [number, (x: number) => number]>} */
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, bicubic],
};

/** @param {number} x */
function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/**
 * Resizes a part of a picture, as `Image.resize((width, height), filter, box)` does.
 * @param {Pixels} picture
 * @param {number} width @param {number} height
 * @param {string} filter "bilinear" or "bicubic".
 * @param {Box} box In pixels of the picture, fractions allowed.
 * @returns {Pixels}
 */
export function resize(picture, width, height, filter, box) {
  const [left, top, right, bottom] = box.map(Math.fround); // Pillow passes them on as float32.
  const across = weights(picture.width, left, right, width, filter);
  const down = weights(picture.height, top, bottom, height, filter);
  const acrossNeeded = width !== picture.width || left !== 0 || right !== width;
  const downNeeded = height !== picture.height || top !== 0 || bottom !== height;
  // Each pass rounds, so their order shows. Since version 13 the first is the one that leaves less to the second.
  let { data } = picture;
  const saved = picture.height - height;
  if (saved > 0 && saved > 2 * (picture.width - width)) {
    if (downNeeded) data = vertically(data, 3 * picture.width, 0, height, down);
    if (acrossNeeded) data = horizontally(data, picture.width, 0, height, width, across);
    return { width, height, data };
  }
  let first = 0; // row that `data` holds
  if (acrossNeeded) {
    first = down.from[0];
    data = horizontally(data, picture.width, first, down.from[height - 1] + down.count[height - 1], width, across);
  }
  if (downNeeded) data = vertically(data, 3 * width, first, height, down);
  return { width, height, data };
}

/**
 * Says which pixels of a line make each pixel of the result, and how much of each, in fixed-point numbers.
 * @param {number} size Of the line.
 * @param {number} start @param {number} end The part of it that is resized.
 * @param {number} length Of the result.
 * @param {string} filter
 */
function weights(size, start, end, length, filter) {
  const scale = Math.fround(end - start) / length;
  const stretch = Math.max(1, scale);
  const support = FILTERS[filter][0] * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const from = new Int32Array(length);
  const count = new Int32Array(length);
  const values = new Int32Array(length * most);
  const exact = new Float64Array(most);
  for (let i = 0; i < length; i++) {
    const centre = start + (i + 0.5) * scale;
    from[i] = Math.max(0, Math.trunc(centre - support + 0.5));
    count[i] = Math.min(size, Math.trunc(centre + support + 0.5)) - from[i];
    let sum = 0;
    for (let j = 0; j < count[i]; j++) {
      exact[j] = FILTERS[filter][1]((j + from[i] - centre + 0.5) * (1 / stretch));
      sum += exact[j];
    }
    for (let j = 0; j < count[i]; j++) {
      const value = (sum === 0 ? exact[j] : exact[j] / sum) * 2 ** PRECISION_BITS;
      values[i * most + j] = Math.trunc(value + (value < 0 ? -0.5 : 0.5));
    }
  }
  return { from, count, values, most };
}

/**
 * @param {Uint8Array | Uint8ClampedArray} data @param {number} oldWidth @param {number} first @param {number} last Rows to make.
 * @param {number} width @param {ReturnType<typeof weights>} across
 */
function horizontally(data, oldWidth, first, last, width, { from, count, values, most }) {
  const result = new Uint8ClampedArray(3 * width * (last - first));
  for (let y = first, at = 0; y < last; y++) {
    for (let x = 0; x < width; x++, at += 3) {
      let red = 1 << (PRECISION_BITS - 1);
      let green = red;
      let blue = red;
      let source = 3 * (y * oldWidth + from[x]);
      for (let j = x * most, end = j + count[x]; j < end; j++, source += 3) {
        red += data[source] * values[j];
        green += data[source + 1] * values[j];
        blue += data[source + 2] * values[j];
      }
      result[at] = red >> PRECISION_BITS;
      result[at + 1] = green >> PRECISION_BITS;
      result[at + 2] = blue >> PRECISION_BITS;
    }
  }
  return result;
}

/**
 * @param {Uint8Array | Uint8ClampedArray} data @param {number} stride Of its rows. @param {number} first Which of them it begins with.
 * @param {number} height @param {ReturnType<typeof weights>} down
 */
function vertically(data, stride, first, height, { from, count, values, most }) {
  const result = new Uint8ClampedArray(stride * height);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < stride; x++, at++) {
      let sum = 1 << (PRECISION_BITS - 1);
      let source = (from[y] - first) * stride + x;
      for (let j = y * most, end = j + count[y]; j < end; j++, source += stride) sum += data[source] * values[j];
      result[at] = sum >> PRECISION_BITS;
    }
  }
  return result;
}
