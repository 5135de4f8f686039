// Which of LiteRT's builds a browser can run, for the page and the worker alike.

import { supportsFeature } from "./litert/core.js";

/** Threads share memory, which only an isolated page may, and their build takes relaxed SIMD. */
export async function supportsThreads() {
  return globalThis.crossOriginIsolated && (await supportsFeature("relaxedSimd")) && (await supportsFeature("threads"));
}

/** Where a graph is divided between GPU and CPU, the runtime waits in the middle of a call, which takes JSPI. Its build has no threads. */
export async function supportsWaiting() {
  return (await supportsFeature("relaxedSimd")) && (await supportsFeature("jspi"));
}

/** Names the builds that are loaded here, unless fewer threads are chosen. @param {boolean} gpu @returns {Promise<string[]>} */
export async function listBuilds(gpu) {
  const plain = (await supportsFeature("relaxedSimd")) ? "litert_wasm_internal" : "litert_wasm_compat_internal";
  const builds = [(await supportsThreads()) ? "litert_wasm_threaded_internal" : plain];
  if (gpu) builds.push((await supportsWaiting()) ? "litert_wasm_jspi_internal" : plain);
  return [...new Set(builds)];
}
