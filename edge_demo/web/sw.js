// The service worker: what the server gives is kept, and given back when the server cannot be reached.
// The server comes first, so that a changed bundle is seen at once; what did not change it does not send again.

const OURS = "swin-keras-web-";
const CACHE = `${OURS}2`;
const PATIENCE = 5000; // ms for a server to begin its answer, where one is kept
// The app. What it loads besides, the runtime, bundle and samples, is kept as it is loaded.
const APP = [
  "./", "style.css", "manifest.webmanifest", "icon.svg", "icon-192.png", "icon-512.png",
  "app.js", "builds.js", "bundle.js", "camera.js", "client.js", "decode.js", "dense.js", "engine.js", "errors.js", "exif.js", "header.js", "maps.js", "numbers.js",
  "offline.js", "pictures.js", "png.js", "preprocess.js", "resample.js", "sha256.js", "view.js", "worker.js",
  "litert/core.js", "litert/wasm-utils.js",
];

/** @typedef {Event & {request: Request, respondWith: (answer: Promise<Response>) => void, waitUntil: (work: Promise<any>) => void}} WorkerEvent */
const worker = /** @type {any} */ (self);

worker.addEventListener("install", (/** @type {WorkerEvent} */ event) => {
  worker.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(APP)));
});

worker.addEventListener("activate", (/** @type {WorkerEvent} */ event) => {
  event.waitUntil(
    caches
      .keys()
      .then((names) => Promise.all(names.filter((name) => name.startsWith(OURS) && name !== CACHE).map((name) => caches.delete(name))))
      .then(() => worker.clients.claim()),
  );
});

worker.addEventListener("fetch", (/** @type {WorkerEvent} */ event) => {
  const { request } = event;
  if (request.method === "GET" && new URL(request.url).origin === location.origin) event.respondWith(answer(event));
});

/** @param {WorkerEvent} event */
async function answer(event) {
  const { request } = event;
  const cache = await caches.open(CACHE);
  // What follows the "?" tells exports of a model apart; the page itself is the same with anything there.
  const kept = await cache.match(request, { ignoreSearch: request.mode === "navigate", ignoreVary: true });
  const fetched = fetch(request).then((response) => {
    if (response.status === 200) event.waitUntil(cache.put(request, response.clone()).catch(() => {})); // No room is no error.
    return response;
  });
  if (!kept) return fetched.catch(() => Response.error());
  event.waitUntil(fetched.catch(() => {})); // One that comes late is kept for the next time.
  const late = new Promise((resolve) => setTimeout(resolve, PATIENCE, kept));
  return Promise.race([fetched, late]).catch(() => kept);
}
