// `npm run vendor`: puts LiteRT where the app finds it, in litert/, from the packages that `npm ci` installed.
//
// A worker has no import map, so the one import between the two packages is made a path here.

import { cpSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const packages = join(import.meta.dirname, "node_modules/@litertjs");
const partial = join(import.meta.dirname, ".litert.partial");
const folder = join(import.meta.dirname, "litert");

const core = readFileSync(join(packages, "core/dist/index.js"), "utf8");
const parts = core.split('"@litertjs/wasm-utils"');
if (parts.length !== 2) throw new Error(`Expected @litertjs/core to import @litertjs/wasm-utils once. Received: ${parts.length - 1} times.`);

rmSync(partial, { recursive: true, force: true });
mkdirSync(partial);
cpSync(join(packages, "core/wasm"), join(partial, "wasm"), { recursive: true });
writeFileSync(join(partial, "core.js"), withoutMap(parts.join('"./wasm-utils.js"')));
writeFileSync(join(partial, "wasm-utils.js"), withoutMap(readFileSync(join(packages, "wasm-utils/dist/index.js"), "utf8")));
// Nothing half-copied stands under the final name.
rmSync(folder, { recursive: true, force: true });
renameSync(partial, folder);

/** @param {string} code */
function withoutMap(code) {
  return code.replace(/^\/\/# sourceMappingURL=.*$/m, "");
}
