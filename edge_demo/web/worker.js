// Where models run, beside the page, which so stays responsive. LiteRT loads its wasm by importScripts: a worker that is a module has none.

const engine = import("./engine.js");

/** One request after the other: a model runs one picture at a time. */
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(() => reply(data));
};

/** @param {any} request Of client.js, with an id. */
async function reply(request) {
  try {
    const { answer } = await engine;
    self.postMessage({ id: request.id, result: await answer(request) });
  } catch (error) {
    const { name, message, details } = /** @type {any} */ (error);
    const told = name === "InputError" ? { message, details } : { message: "expected the app to work, which failed. Reload the page.", details: `${name}: ${message}` };
    self.postMessage({ id: request.id, error: told });
  }
}
