// Reads PNG as Pillow's `convert("RGB")` does. Browsers multiply colours with transparency and cut 16 bits, each in its own way.

import { InputError } from "./errors.js";
import { readOrientation } from "./exif.js";

/** @typedef {import("./resample.js").Pixels} Pixels */

const MAX_PIXELS = 89_478_485; // as preprocess.py: Pillow's
const CHANNELS = new Map([[0, 1], [2, 3], [3, 1], [4, 2], [6, 4]]); // prettier-ignore
const DEPTHS = new Map([[0, [1, 2, 4, 8, 16]], [2, [8, 16]], [3, [1, 2, 4, 8]], [4, [8, 16]], [6, [8, 16]]]); // prettier-ignore
/** The seven pictures of an interlaced one: first column and row, and the steps. */
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]]; // prettier-ignore

/**
 * @param {Uint8Array<ArrayBuffer>} file
 * @returns {Promise<{pixels: Pixels, orientation: number}>} Not yet turned as `orientation` says.
 * @throws {InputError} If it is damaged or too large.
 */
export async function readPng(file) {
  const { header, palette, compressed, orientation } = readChunks(file);
  const { width, height, depth, colour, interlaced } = header;
  checkSize(width, height);
  const passes = interlaced ? PASSES : [[0, 0, 1, 1]];
  const bits = depth * /** @type {number} */ (CHANNELS.get(colour));
  const parts = passes.map(([left, top, across, down]) => {
    const [columns, rows] = [Math.ceil((width - left) / across), Math.ceil((height - top) / down)];
    return { left, top, across, down, columns, rows, stride: Math.ceil((columns * bits) / 8) };
  });
  const filled = parts.filter(({ columns, rows }) => columns > 0 && rows > 0);
  const bytes = await inflate(compressed, filled.reduce((sum, { rows, stride }) => sum + rows * (stride + 1), 0)); // prettier-ignore
  const data = new Uint8Array(3 * width * height);
  let at = 0;
  for (const part of filled) {
    const rows = bytes.subarray(at, (at += part.rows * (part.stride + 1)));
    unfilter(rows, part.stride, Math.max(1, bits >> 3));
    for (let y = 0, from = 1; y < part.rows; y++, from += part.stride + 1) {
      const row = rows.subarray(from, from + part.stride);
      putRow(row, header, palette, part.columns, data, 3 * ((part.top + y * part.down) * width + part.left), 3 * part.across);
    }
  }
  return { pixels: { width, height, data }, orientation };
}

/** @param {number} width @param {number} height @throws {InputError} If so many pixels are not for a small device's memory. */
export function checkSize(width, height) {
  if (width * height > MAX_PIXELS) throw new InputError(`this picture is too large (${width}x${height} pixels)`);
}

/** @param {Uint8Array<ArrayBuffer>} file */
function readChunks(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  /** @type {{width: number, height: number, depth: number, colour: number, interlaced: boolean} | null} */
  let header = null;
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const compressed = [];
  const palette = new Uint8Array(768);
  let orientation = 1;
  for (let at = 8; at + 12 <= file.length; ) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...file.subarray(at + 4, at + 8));
    const content = file.subarray(at + 8, at + 8 + length);
    if (kind === "IDAT") compressed.push(content); // also one that is cut off: its pixels may still be whole
    else if (at + 12 + length > file.length) damaged("it ends early");
    else if (crc(file.subarray(at + 4, at + 8 + length)) !== view.getUint32(at + 8 + length)) damaged(`the checksum of ${kind} is wrong`);
    if (kind === "IHDR" && length >= 13) {
      const [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)];
      header = { width, height, depth: content[8], colour: content[9], interlaced: content[12] !== 0 };
    }
    if (kind === "PLTE") palette.set(content.subarray(0, 768));
    if (kind === "eXIf") orientation = readOrientation(content);
    if (kind === "IEND") break;
    at += 12 + length;
  }
  if (!header || !DEPTHS.get(header.colour)?.includes(header.depth) || !header.width || !header.height) return damaged("its header is wrong");
  if (!compressed.length) damaged("it has no pixels");
  return { header, palette, compressed, orientation };
}

/** @param {Uint8Array<ArrayBuffer>[]} compressed @param {number} length Of what is needed of it; what follows may be wrong. */
async function inflate(compressed, length) {
  const bytes = new Uint8Array(length);
  /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */
  const source = new ReadableStream({
    start(controller) {
      for (const piece of compressed) controller.enqueue(piece);
      controller.close();
    },
  });
  const reader = source.pipeThrough(new DecompressionStream("deflate")).getReader();
  let at = 0;
  try {
    while (at < length) {
      const { value, done } = await reader.read();
      if (done) break;
      bytes.set(value.subarray(0, length - at), at);
      at += value.length;
    }
  } catch (error) {
    damaged(String(/** @type {Error} */ (error).message));
  }
  reader.cancel().catch(() => {});
  if (at < length) damaged("it ends early");
  return bytes;
}

/**
 * Undoes, in place, what made the rows easy to compress.
 * @param {Uint8Array} rows Each with its filter before it. @param {number} stride Bytes of a row without it. @param {number} step Bytes of a pixel.
 */
function unfilter(rows, stride, step) {
  for (let row = 1; row < rows.length; row += stride + 1) {
    const kind = rows[row - 1];
    if (kind > 4) damaged("a row of it has an unknown filter");
    const above = row - stride - 1;
    for (let i = 0; i < stride; i++) {
      const left = i < step ? 0 : rows[row + i - step];
      const up = above < 0 ? 0 : rows[above + i];
      const corner = i < step || above < 0 ? 0 : rows[above + i - step];
      let guess = 0;
      if (kind === 1) guess = left;
      else if (kind === 2) guess = up;
      else if (kind === 3) guess = (left + up) >> 1;
      else if (kind === 4) guess = nearest(left, up, corner);
      rows[row + i] += guess;
    }
  }
}

/** @param {number} left @param {number} up @param {number} corner */
function nearest(left, up, corner) {
  const toLeft = Math.abs(up - corner);
  const toUp = Math.abs(left - corner);
  const toCorner = Math.abs(left + up - 2 * corner);
  if (toLeft <= toUp && toLeft <= toCorner) return left;
  return toUp <= toCorner ? up : corner;
}

/**
 * Writes a row as red, green and blue. Transparency is ignored; of 16 bits grey is scaled and colours lose the lower 8, as in Pillow.
 * @param {Uint8Array} row @param {{depth: number, colour: number}} header @param {Uint8Array} palette @param {number} columns
 * @param {Uint8Array} data @param {number} at Where in it. @param {number} step
 */
function putRow(row, { depth, colour }, palette, columns, data, at, step) {
  const channels = /** @type {number} */ (CHANNELS.get(colour));
  const bytes = depth === 16 ? 2 : 1;
  const mask = (1 << Math.min(depth, 8)) - 1;
  for (let x = 0; x < columns; x++, at += step) {
    if (colour === 2 || colour === 6) {
      const from = x * channels * bytes;
      for (let c = 0; c < 3; c++) data[at + c] = row[from + c * bytes];
      continue;
    }
    let value;
    if (depth < 8) value = (row[(x * depth) >> 3] >> (8 - depth - ((x * depth) & 7))) & mask;
    else value = row[x * channels * bytes];
    if (colour === 3) {
      for (let c = 0; c < 3; c++) data[at + c] = palette[3 * value + c];
      continue;
    }
    if (depth === 16 && colour === 0) value = Math.floor((256 * value + row[2 * x + 1]) / 257);
    data[at] = data[at + 1] = data[at + 2] = depth < 8 ? (value * 255) / mask : value;
  }
}

const CRC_TABLE = new Uint32Array(256).map((_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/** @param {Uint8Array} bytes */
function crc(bytes) {
  let value = -1;
  for (const byte of bytes) value = CRC_TABLE[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

/** @param {string} why @returns {never} */
function damaged(why) {
  throw new InputError(`this picture is damaged (${why})`);
}
