// Runs the modules of the app that need no browser, for test_web.py: standard input has what to run, standard output gets what came of it.

import { readFileSync } from "node:fs";
import { listSizes, readBundle, readFile } from "../../../edge_demo/web/bundle.js";
import { findBoxes, findMask } from "../../../edge_demo/web/dense.js";
import { explain } from "../../../edge_demo/web/decode.js";
import { readOrientation } from "../../../edge_demo/web/exif.js";
import { readHeader } from "../../../edge_demo/web/header.js";
import { drawMap } from "../../../edge_demo/web/maps.js";
import { best, checkNumbers, checkProbabilities, quantile, softmax } from "../../../edge_demo/web/numbers.js";
import { preprocess } from "../../../edge_demo/web/preprocess.js";
import { digest } from "../../../edge_demo/web/sha256.js";
import { legible } from "../../../edge_demo/web/view.js";

const bytes = (text) => new Uint8Array(Buffer.from(text, "base64"));
const text = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString("base64");
const floats = (content) => new Float32Array(bytes(content).buffer);
const refusal = (error) => (error.name === "InputError" ? error.message : `not an InputError: ${error.stack}`);

const run = {
  preprocess({ width, height, data, preprocessing }) {
    const { input, box } = preprocess({ width, height, data: bytes(data) }, preprocessing);
    return { input: text(input), box };
  },
  async readBundle({ content }) {
    globalThis.fetch = async () => new Response(bytes(content));
    return readBundle("bundle/").then(() => null, refusal);
  },
  listSizes: ({ description }) => listSizes(description).map(({ signature, input, outputs }) => ({ signature, shape: input.shape, outputs })),
  async readFile({ description, recipe = description.files[0].recipe, content }) {
    globalThis.fetch = async () => new Response(bytes(content));
    return readFile("bundle/", description, recipe).then((read) => text(new Uint8Array(read)), refusal);
  },
  readHeader: ({ content }) => readHeader(new Blob([bytes(content)])),
  async checkNumbers({ content, recipe, picture }) {
    return Promise.resolve().then(() => checkNumbers(floats(content), recipe, picture)).then(() => null, refusal); // prettier-ignore
  },
  async checkProbabilities({ values, recipe }) {
    return Promise.resolve().then(() => checkProbabilities(Float64Array.from(values), recipe)).then(() => null, refusal); // prettier-ignore
  },
  legible: ({ text }) => legible(text),
  explain: ({ error: [name, message] }) => explain(Object.assign(new Error(message), { name })),
  sha256: ({ content }) => Buffer.from(digest(bytes(content))).toString("hex"),
  orientation: ({ content }) => readOrientation(bytes(content)),
  softmax: ({ values }) => [...softmax(values)],
  best: ({ values, count, threshold }) => best(Float64Array.from(values), count, threshold),
  findBoxes: ({ boxes, scores }) => findBoxes(floats(boxes), floats(scores)),
  findMask({ logits, shape }) {
    const { classes, shares, ...rest } = findMask(floats(logits), shape);
    return { ...rest, classes: [...classes], shares: [...shares] };
  },
  quantile: ({ values, fraction }) => quantile(values, fraction),
  map({ output, values, size }) {
    const map = drawMap(output, floats(values), size);
    return map && { ...map, values: [...map.values] };
  },
};

const requests = JSON.parse(readFileSync(0, "utf8"));
const results = [];
for (const { name, ...arguments_ } of requests) results.push(await run[name](arguments_));
process.stdout.write(JSON.stringify(results));
