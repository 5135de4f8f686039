// What a picture file is and how large, by its first bytes: before a browser decodes it, which of a few of them can take gigabytes.

/** The first bytes of the files that both Pillow and browsers read; "." is any. @type {[string, string][]} */
const SIGNATURES = [
  ["\x89PNG\r\n\x1a\n", "png"],
  ["\xff\xd8\xff", "jpeg"],
  ["RIFF....WEBP", "webp"],
  ["GIF8", "gif"],
  ["BM", "bmp"],
  ["....ftypavi", "avif"],
];

/** The size stands within so many bytes, unless a JPEG file begins with more metadata than that. */
const START = 2 ** 20;

/** @type {Record<string, (view: DataView) => [number, number] | null>} */
const SIZES = {
  png: (view) => [view.getUint32(16), view.getUint32(20)],
  jpeg: jpegSize,
  webp: webpSize,
  gif: (view) => [view.getUint16(6, true), view.getUint16(8, true)],
  bmp: (view) =>
    view.getUint32(14, true) === 12 ? [view.getUint16(18, true), view.getUint16(20, true)] : [view.getInt32(18, true), Math.abs(view.getInt32(22, true))],
  avif: avifSize,
};

/**
 * @param {Blob} file
 * @returns {Promise<{kind: string | undefined, size: [number, number] | null}>} Width and height as stored, or `null` where they were not found.
 */
export async function readHeader(file) {
  const view = new DataView(await file.slice(0, START).arrayBuffer());
  const kind = SIGNATURES.find(([signature]) => [...signature].every((c, i) => c === "." || (i < view.byteLength && c.charCodeAt(0) === view.getUint8(i))))?.[1];
  try {
    return { kind, size: kind ? SIZES[kind](view) : null };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // It ends early, which is for the decoder to say.
    return { kind, size: null };
  }
}

/** @param {DataView} view @returns {[number, number] | null} */
function jpegSize(view) {
  for (let at = 2; view.getUint8(at) === 0xff; ) {
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) at++; // Padding.
    else if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return [view.getUint16(at + 7), view.getUint16(at + 5)];
    else at += 2 + view.getUint16(at + 2);
  }
  return null;
}

/** @param {DataView} view @returns {[number, number] | null} */
function webpSize(view) {
  const kind = view.getUint8(15);
  if (kind === 0x20) return [view.getUint16(26, true) & 0x3fff, view.getUint16(28, true) & 0x3fff];
  if (kind === 0x4c) return [(view.getUint32(21, true) & 0x3fff) + 1, ((view.getUint32(21, true) >> 14) & 0x3fff) + 1];
  if (kind === 0x58) return [(view.getUint32(24, true) & 0xffffff) + 1, (view.getUint32(26, true) >>> 8) + 1];
  return null;
}

/** The largest of its parts: thumbnails and tiles have their sizes too. @param {DataView} view @returns {[number, number] | null} */
function avifSize(view) {
  /** @type {[number, number] | null} */
  let largest = null;
  for (let at = 12; at + 16 <= view.byteLength; at++) {
    if (view.getUint32(at) !== 0x69737065) continue; // ispe
    const [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)];
    if (!largest || width * height > largest[0] * largest[1]) largest = [width, height];
  }
  return largest;
}
