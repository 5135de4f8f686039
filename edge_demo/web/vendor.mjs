// `npm run vendor`: puts LiteRT where the app finds it, in litert/, from the packages that `npm ci` installed.
//
// A worker has no import map, so the one import between the two packages becomes a path.

import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const packages = join(import.meta.dirname, "node_modules/@litertjs");
const partial = join(import.meta.dirname, ".litert.partial");
const folder = join(import.meta.dirname, "litert");

rmSync(partial, { recursive: true, force: true });
mkdirSync(partial);
cpSync(join(packages, "core/wasm"), join(partial, "wasm"), { recursive: true });
for (const name of ["core", "wasm-utils"]) {
  for (const kind of ["js", "d.ts"]) writeFileSync(join(partial, `${name}.${kind}`), adapt(join(packages, name, "dist", `index.${kind}`)));
}
// Nothing half-copied stands under the final name.
rmSync(folder, { recursive: true, force: true });
renameSync(partial, folder);

/** @param {string} file */
function adapt(file) {
  const code = readFileSync(file, "utf8").replace(/^\/\/# sourceMappingURL=.*$/m, "");
  const parts = code.split(/(?<=from )["']@litertjs\/wasm-utils["']/);
  const expected = file.includes("wasm-utils") ? 0 : 1;
  if (parts.length - 1 !== expected) throw new Error(`Expected ${file} to import @litertjs/wasm-utils ${expected} times. Received: ${parts.length - 1}.`);
  return parts.join('"./wasm-utils.js"');
}
