// From a file, or a frame of a camera, to pixels as `open_picture` of preprocess.py reads them: turned as EXIF says, in 8-bit RGB.

import { InputError } from "./errors.js";
import { readOrientation } from "./exif.js";
import { readHeader } from "./header.js";
import { checkSize, readPng } from "./png.js";

/** @typedef {import("./resample.js").Pixels} Pixels */
/** @typedef {{pixels: Pixels, hidden: boolean}} Decoded `hidden`: it has colours behind transparency that the browser keeps to itself. */

// The browser gives pixels through a canvas, and phones limit its size; a large picture is read piece by piece.
const PIECE = { width: 4096, height: 512 };
/** @type {ImageBitmapOptions} */
const AS_STORED = { colorSpaceConversion: "none", premultiplyAlpha: "none" };

/**
 * Looks at a file before it is decoded.
 * @param {Blob} file
 * @param {string} name For the error.
 * @returns {Promise<void>}
 * @throws {InputError} If it is no picture, or one that is too large.
 */
export async function checkFile(file, name) {
  await readKind(file).catch((error) => refuse(error, name));
}

/**
 * @param {Blob} file
 * @param {string} name For the error.
 * @returns {Promise<Decoded>}
 * @throws {InputError} If it is no picture that can be read.
 */
export async function decodeFile(file, name) {
  try {
    const kind = await readKind(file);
    if (kind === "png") {
      const { pixels, orientation } = await readPng(new Uint8Array(await file.arrayBuffer()));
      return { pixels: turn(pixels, orientation), hidden: false };
    }
    // Browsers turn a file as it says, but not every browser a WebP file.
    const { stored, orientation } = kind === "webp" ? await hideOrientation(file) : { stored: file, orientation: 1 };
    const { pixels, hidden } = await decodeBitmap(await createImageBitmap(stored, AS_STORED), kind !== "gif");
    return { pixels: turn(pixels, orientation), hidden };
  } catch (error) {
    return refuse(/** @type {Error} */ (error), name);
  }
}

/** @param {Blob} file */
async function readKind(file) {
  const { kind, size } = await readHeader(file);
  if (kind === undefined) throw new InputError("this is not a picture that this browser and Python can both read");
  if (size) checkSize(...size);
  return kind;
}

/** @param {Error} error @param {string} name @returns {never} */
function refuse(error, name) {
  throw new InputError(`expected a picture file, received '${name}': ${explain(error)}. Give a PNG, JPEG or WebP file.`);
}

/** What is wrong with a picture, or with this browser, and what helps. @param {Error} error @returns {string} */
export function explain({ name, message }) {
  if (name === "InputError") return message;
  const said = message.replace(/\.$/, "");
  if (["InvalidStateError", "EncodingError"].includes(name)) return `this picture is damaged (${said})`;
  if (name === "RangeError") return "it takes more memory than this browser gives: give a smaller picture";
  if (["NotReadableError", "NotFoundError"].includes(name)) return "it cannot be read: save it on this device first";
  return `this browser lacks what reading it takes (${said}): update it`;
}

/**
 * Reads the pixels of what the browser decoded, and closes it.
 * @param {ImageBitmap} bitmap
 * @param {boolean} [keepsColours] Whether the browser keeps the colours behind transparency; of a GIF it does not.
 * @returns {Promise<Decoded>}
 */
export async function decodeBitmap(bitmap, keepsColours = true) {
  try {
    return await readPixels(bitmap, keepsColours);
  } finally {
    bitmap.close();
  }
}

/** @param {ImageBitmap} bitmap @param {boolean} keepsColours @returns {Promise<Decoded>} */
async function readPixels(bitmap, keepsColours) {
  const { width, height } = bitmap;
  checkSize(width, height);
  const canvas = new OffscreenCanvas(Math.min(width, PIECE.width), Math.min(height, PIECE.height));
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: true }));
  context.globalCompositeOperation = "copy";
  const data = new Uint8Array(3 * width * height);
  let hidden = false;
  for (let top = 0; top < height; top += canvas.height) {
    for (let left = 0; left < width; left += canvas.width) {
      const [columns, rows] = [Math.min(canvas.width, width - left), Math.min(canvas.height, height - top)];
      context.drawImage(bitmap, left, top, columns, rows, 0, 0, columns, rows);
      /** @type {Uint8Array | Uint8ClampedArray} */
      let piece = context.getImageData(0, 0, columns, rows).data;
      if (!isOpaque(piece)) {
        const straight = readStraight(await createImageBitmap(bitmap, left, top, columns, rows, AS_STORED));
        hidden ||= !straight || !keepsColours;
        piece = straight ?? piece;
      }
      for (let y = 0, from = 0; y < rows; y++) {
        for (let x = 0, to = 3 * ((top + y) * width + left); x < columns; x++, from += 4, to += 3) {
          data[to] = piece[from];
          data[to + 1] = piece[from + 1];
          data[to + 2] = piece[from + 2];
        }
      }
    }
  }
  return { pixels: { width, height, data }, hidden };
}

/** @param {ArrayLike<number>} pixels Of four bytes. */
function isOpaque(pixels) {
  for (let i = 3; i < pixels.length; i += 4) if (pixels[i] !== 255) return false;
  return true;
}

/**
 * Reads colours that are not multiplied with their transparency, as a canvas would, and closes what they are of.
 * @param {ImageBitmap} bitmap
 * @returns {Uint8Array | null} `null` where there is no WebGL.
 */
function readStraight(bitmap) {
  const { width, height } = bitmap;
  const gl = new OffscreenCanvas(1, 1).getContext("webgl2");
  if (!gl) {
    bitmap.close();
    return null;
  }
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const pixels = new Uint8Array(4 * width * height);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  bitmap.close();
  return pixels;
}

/** Gives a WebP file in which no browser finds how the camera was held, and what it says of that. @param {Blob} file */
async function hideOrientation(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const view = new DataView(bytes.buffer);
  if (bytes[15] === 0x58) bytes[20] &= ~8; // VP8X says that it has such a chunk.
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (String.fromCharCode(...bytes.subarray(at, at + 4)) === "EXIF") {
      bytes.set([0x78, 0x78, 0x78, 0x78], at); // A chunk that nobody knows is passed over.
      return { stored: new Blob([bytes], { type: file.type }), orientation: readOrientation(bytes.subarray(at + 8, at + 8 + length)) };
    }
    at += 8 + length + (length % 2);
  }
  return { stored: file, orientation: 1 };
}

/**
 * Turns a picture upright.
 * @param {Pixels} picture
 * @param {number} orientation As in EXIF, from 1 to 8: 1 is upright, from 5 rows and columns are exchanged.
 * @returns {Pixels}
 */
export function turn({ width, height, data }, orientation) {
  if (orientation === 1) return { width, height, data };
  const exchanged = orientation >= 5;
  const mirrored = [2, 3, 7, 8].includes(orientation);
  const upsideDown = [3, 4, 6, 7].includes(orientation);
  const [newWidth, newHeight] = exchanged ? [height, width] : [width, height];
  const result = new Uint8Array(data.length);
  for (let y = 0, to = 0; y < newHeight; y++) {
    for (let x = 0; x < newWidth; x++, to += 3) {
      let [column, row] = exchanged ? [y, x] : [x, y];
      if (mirrored) column = width - 1 - column;
      if (upsideDown) row = height - 1 - row;
      const from = 3 * (row * width + column);
      result[to] = data[from];
      result[to + 1] = data[from + 1];
      result[to + 2] = data[from + 2];
    }
  }
  return { width: newWidth, height: newHeight, data: result };
}
