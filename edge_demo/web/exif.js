// How the camera was held.

/**
 * @param {Uint8Array} exif From its byte order on, or from "Exif" before it.
 * @returns {number} From 1, upright, to 8.
 */
export function readOrientation(exif) {
  const start = String.fromCharCode(...exif.subarray(0, 4)) === "Exif" ? 6 : 0;
  const view = new DataView(exif.buffer, exif.byteOffset + Math.min(start, exif.length));
  try {
    const little = view.getUint16(0) === 0x4949;
    const directory = view.getUint32(4, little);
    for (let i = 0; i < view.getUint16(directory, little); i++) {
      const entry = directory + 2 + 12 * i;
      if (view.getUint16(entry, little) === 0x0112) {
        const value = view.getUint16(entry + 8, little);
        return value >= 1 && value <= 8 ? value : 1;
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // Metadata that ends early says nothing.
  }
  return 1;
}
