// SHA-256 in hexadecimal. Browsers keep theirs for https and localhost, and a phone may come by http in its own network.

// The first 32 bits of the fractions of the square roots of the first 8 primes, and of the cube roots of the first 64.
const primes = [...Array(312).keys()].filter((n) => n > 1 && [...Array(n).keys()].every((d) => d < 2 || n % d));
const START = new Int32Array(primes.slice(0, 8).map((p) => fraction(Math.sqrt(p))));
const ROUND = new Int32Array(primes.map((p) => fraction(Math.cbrt(p))));

/**
 * @param {ArrayBuffer} content
 * @returns {Promise<string>} 64 hexadecimal digits.
 */
export async function sha256(content) {
  const hash = globalThis.crypto?.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", content)) : digest(new Uint8Array(content));
  return [...hash].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The same without the browser's help, as in FIPS 180-4.
 * @param {Uint8Array} content
 * @returns {Uint8Array} 32 bytes.
 */
export function digest(content) {
  const padded = new Uint8Array(Math.ceil((content.length + 9) / 64) * 64);
  padded.set(content);
  padded[content.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setBigUint64(padded.length - 8, 8n * BigInt(content.length));
  const state = START.slice();
  const w = new Int32Array(64);
  for (let block = 0; block < padded.length; block += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getInt32(block + 4 * i);
    for (let i = 16; i < 64; i++) {
      const s0 = turn(w[i - 15], 7) ^ turn(w[i - 15], 18) ^ (w[i - 15] >>> 3);
      const s1 = turn(w[i - 2], 17) ^ turn(w[i - 2], 19) ^ (w[i - 2] >>> 10);
      w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i++) {
      const t1 = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + ROUND[i] + w[i]) | 0;
      const t2 = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((value, i) => (state[i] += value));
  }
  const hash = new DataView(new ArrayBuffer(32));
  state.forEach((value, i) => hash.setInt32(4 * i, value));
  return new Uint8Array(hash.buffer);
}

/** @param {number} x @param {number} bits */
function turn(x, bits) {
  return (x >>> bits) | (x << (32 - bits));
}

/** @param {number} x */
function fraction(x) {
  return Math.floor((x - Math.floor(x)) * 2 ** 32);
}
