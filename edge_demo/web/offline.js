// Keeps what was loaded, by sw.js, so that the page also opens without a connection.

import { runnable } from "./bundle.js";

/** Up to so many bytes of recipes are fetched ahead; larger ones are kept once they have been used. */
const AHEAD = 32e6;

/** Starts the service worker, and waits until what the page fetches goes through it. */
export async function startKeeping() {
  if (!navigator.serviceWorker) return;
  try {
    await navigator.serviceWorker.register("sw.js");
  } catch {
    return; // In a private window, for instance. The page works without.
  }
  if (navigator.serviceWorker.controller) return;
  await new Promise((resolve) => {
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    setTimeout(resolve, 5000);
  });
}

/**
 * Fetches the runtimes and small recipes that were not used yet, and says what is kept.
 * @param {string} folder @param {import("./bundle.js").Description} description @param {string[]} runtimes Names of wasm builds.
 * @returns {Promise<string>} For the reader.
 */
export async function keepAhead(folder, description, runtimes) {
  if (!navigator.serviceWorker?.controller) return globalThis.isSecureContext ? "" : "Offline use and the camera take https or localhost.";
  const files = runnable(description);
  const connection = /** @type {{saveData?: boolean} | undefined} */ (/** @type {any} */ (navigator).connection);
  if (!connection?.saveData) {
    const small = files.filter((_, i) => files.slice(0, i + 1).reduce((sum, file) => sum + file.bytes, 0) <= AHEAD);
    const scripts = runtimes.flatMap((name) => [`litert/wasm/${name}.js`, `litert/wasm/${name}.wasm`]);
    for (const path of [...small.map(({ file }) => folder + file), ...scripts]) {
      if (!(await caches.match(path))) await fetch(path).then((answer) => answer.arrayBuffer()).catch(() => {}); // prettier-ignore
    }
  }
  const kept = [];
  for (const { recipe, file } of files) if (await caches.match(folder + file)) kept.push(recipe);
  return kept.length ? `Kept for offline use: this page and ${kept.join(", ")}.` : "";
}

/** Shows a button where the browser would install the page. @param {HTMLElement} button */
export function offerInstall(button) {
  addEventListener("beforeinstallprompt", (event) => {
    event.preventDefault();
    button.hidden = false;
    button.onclick = () => {
      button.hidden = true;
      /** @type {any} */ (event).prompt();
    };
  });
}
