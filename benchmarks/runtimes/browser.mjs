// Runs .tflite files in headless Chromium by @litertjs/core, on wasm (XNNPACK) and on WebGPU (SwiftShader, a GPU in software).
//
//   benchmarks/runtimes/install.sh browser; apt-get install chromium
//   node benchmarks/runtimes/browser.mjs --inputs DIR --out FILE.json [--accelerator wasm|webgpu] MODEL.tflite ...
//
// DIR has inputs.f32, little-endian float32, and inputs.json, {"shape": [n, height, width, 3]}. FILE.json gets
// {"versions": {...}, "runs": [{"file", "accelerator", "fully_accelerated", "outputs": [[...], ...], "milliseconds": [...]} or {"file", "accelerator",
// "error"}]}, a row of the first output, and a time, for each picture. CHROMIUM names the browser (default: /usr/bin/chromium).

import { createReadStream, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join } from "node:path";
import { parseArgs } from "node:util";

const INSTALLED = join(import.meta.dirname, ".browser");
const FLAGS = [
  "--no-sandbox --no-first-run --disable-background-networking --disable-component-update --disable-sync",
  "--enable-unsafe-webgpu --use-webgpu-adapter=swiftshader --enable-features=Vulkan --ignore-gpu-blocklist",
].flatMap((line) => line.split(" "));
const PAGE = `<!doctype html><body><script type="importmap">{"imports": {
  "@litertjs/core": "/node_modules/@litertjs/core/dist/index.js",
  "@litertjs/wasm-utils": "/node_modules/@litertjs/wasm-utils/dist/index.js"
}}</script>`;

/** In the page: runs a model on each picture. */
async function run({ model, accelerator }) {
  const { loadLiteRt, loadAndCompile, Tensor } = await import("@litertjs/core");
  // The build for WebGPU waits for the GPU in the middle of wasm's calls, which takes JavaScript Promise Integration.
  await loadLiteRt("/node_modules/@litertjs/core/wasm/", { jspi: accelerator === "webgpu" });
  const { shape } = await (await fetch("/inputs.json")).json();
  const pictures = new Float32Array(await (await fetch("/inputs.f32")).arrayBuffer());
  const compiled = await loadAndCompile(model, { accelerator });
  const size = pictures.length / shape[0];
  const outputs = [];
  const milliseconds = [];
  for (let i = 0; i < shape[0]; i++) {
    const input = new Tensor(pictures.slice(i * size, (i + 1) * size), [1, ...shape.slice(1)]);
    const started = performance.now();
    const results = await compiled.run([input]);
    outputs.push([...(await results[0].data())]);
    milliseconds.push(performance.now() - started);
    [input, ...results].forEach((tensor) => tensor.delete());
  }
  const result = { fully_accelerated: compiled.isFullyAccelerated, outputs, milliseconds };
  compiled.delete();
  return result;
}

const { values, positionals } = parseArgs({
  options: { inputs: { type: "string" }, out: { type: "string" }, accelerator: { type: "string", multiple: true, default: ["wasm", "webgpu"] } },
  allowPositionals: true,
});
const TYPES = { js: "text/javascript", wasm: "application/wasm" };
const server = createServer(({ url }, response) => {
  if (url === "/") return response.setHeader("Content-Type", "text/html").end(PAGE);
  const file = url.startsWith("/model/") ? positionals[url.slice(7)] : join(url.startsWith("/node_modules/") ? INSTALLED : values.inputs, url);
  response.setHeader("Content-Type", TYPES[file.split(".").pop()] ?? "application/octet-stream");
  createReadStream(file).on("error", () => response.writeHead(404).end()).pipe(response);
});
await new Promise((listening) => server.listen(0, "localhost", listening));

const { chromium } = createRequire(join(INSTALLED, "package.json"))("playwright-core");
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
const runs = [];
for (const accelerator of values.accelerator) {
  for (const [index, file] of positionals.entries()) {
    const page = await browser.newPage(); // Of its own, for a page loads one build of the runtime, and may crash.
    await page.goto(`http://localhost:${server.address().port}`); // WebGPU wants a page from localhost or by https.
    const crash = new Promise((crashed) => page.on("crash", () => crashed({ error: "the page crashed" })));
    const result = page.evaluate(run, { model: `/model/${index}`, accelerator }).catch((error) => ({ error: error.message.split("\n")[0] }));
    runs.push({ file, accelerator, ...(await Promise.race([result, crash])) });
    await page.close();
  }
}
const litert = JSON.parse(readFileSync(join(INSTALLED, "node_modules/@litertjs/core/package.json"))).version;
writeFileSync(values.out, JSON.stringify({ versions: { "@litertjs/core": litert, Chromium: browser.version() }, runs }));
await browser.close();
server.close();
