// Keeps what was loaded, by sw.js, so that the page also opens without a connection.

import { address, runnable } from "./bundle.js";
import { hide } from "./view.js";

/** Up to so many bytes of recipes are fetched ahead; larger ones are kept once they have been used. */
const AHEAD = 32e6;

/** Starts the service worker, and waits until what the page fetches goes through it. */
export async function startKeeping() {
  if (!navigator.serviceWorker) return;
  let registration;
  try {
    registration = await navigator.serviceWorker.register("sw.js");
  } catch {
    return; // In a private window, for instance. The page works without.
  }
  // One that is active and does not control the page will not: the page was loaded past it, by Shift and reload.
  if (navigator.serviceWorker.controller || registration.active?.state === "activated") return;
  const worker = registration.installing ?? registration.waiting;
  await new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    worker?.addEventListener("statechange", () => worker.state === "redundant" && resolve(null)); // Not all of the app could be fetched.
    setTimeout(resolve, 5000);
  });
}

/**
 * Fetches the runtimes and small recipes that were not used yet, drops the recipes of earlier exports, and says what is kept.
 * @param {string} folder @param {import("./bundle.js").Description} description @param {string[]} runtimes Names of wasm builds.
 * @returns {Promise<string>} For the reader.
 */
export async function keepAhead(folder, description, runtimes) {
  if (!navigator.serviceWorker?.controller) return globalThis.isSecureContext ? "" : "Offline use and the camera take https or localhost.";
  const files = runnable(description);
  await dropOthers(folder, files.map((file) => address(folder, file))); // prettier-ignore
  const connection = /** @type {{saveData?: boolean} | undefined} */ (/** @type {any} */ (navigator).connection);
  if (!connection?.saveData) {
    const small = files.filter((_, i) => files.slice(0, i + 1).reduce((sum, file) => sum + file.bytes, 0) <= AHEAD);
    const scripts = runtimes.flatMap((name) => [`litert/wasm/${name}.js`, `litert/wasm/${name}.wasm`]);
    for (const path of [...small.map((file) => address(folder, file)), ...scripts]) {
      if (!(await caches.match(path))) await fetch(path).then((answer) => answer.arrayBuffer()).catch(() => {}); // prettier-ignore
    }
  }
  const kept = [];
  for (const file of files) if (await caches.match(address(folder, file))) kept.push(file.recipe);
  return kept.length ? `Kept for offline use: this page and ${kept.join(", ")}.` : "";
}

/** Drops kept models that the bundle no longer lists. @param {string} folder @param {string[]} listed */
async function dropOthers(folder, listed) {
  const [start, ...wanted] = [folder, ...listed].map((path) => new URL(path, location.href).href);
  for (const name of await caches.keys()) {
    const cache = await caches.open(name);
    for (const { url } of await cache.keys()) {
      if (url.startsWith(start) && new URL(url).pathname.endsWith(".tflite") && !wanted.includes(url)) await cache.delete(url);
    }
  }
}

/** Shows a button where the browser would install the page. @param {HTMLElement} button */
export function offerInstall(button) {
  addEventListener("beforeinstallprompt", (event) => {
    event.preventDefault();
    button.hidden = false;
    button.onclick = () => {
      hide(button, null);
      /** @type {any} */ (event).prompt();
    };
  });
  // Asked of everybody who visits, it would be a question that most browsers put to the person.
  addEventListener("appinstalled", () => navigator.storage?.persist?.());
}
