// The page's side of the worker.

import { InputError } from "./errors.js";

/** @typedef {import("./engine.js").LoadRequest} LoadRequest */
/** @typedef {import("./engine.js").RunRequest} RunRequest */

/** A model in a worker of its own. */
export class Client {
  #worker = new Worker(new URL("worker.js", import.meta.url));
  /** @type {Map<number, {resolve: (result: any) => void, reject: (error: Error) => void}>} */
  #waiting = new Map();
  #last = 0;
  /** Why it ended. @type {Error | null} */
  #ended = null;

  constructor() {
    this.#worker.onmessage = ({ data: { id, result, error } }) => {
      const waiting = this.#waiting.get(id);
      this.#waiting.delete(id);
      if (error === undefined) waiting?.resolve(result);
      else waiting?.reject(new InputError(error.message, error.details));
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.#end(new InputError("expected the runtime to work, which failed. Try again, or choose wasm.", event.message || "Its script did not load."));
    };
  }

  /**
   * @param {Omit<LoadRequest, "kind">} options `model` is moved, not copied.
   * @returns {Promise<import("./engine.js").Running>}
   */
  load(options) {
    return this.#ask({ kind: "load", ...options }, [options.model]);
  }

  /**
   * @param {Omit<RunRequest, "kind">} options
   * @returns {Promise<import("./engine.js").Result>}
   */
  run(options) {
    return this.#ask({ kind: "run", ...options }, options.picture instanceof ImageBitmap ? [options.picture] : []);
  }

  get ended() {
    return this.#ended !== null;
  }

  /** Ends the worker; what it still owed, and what it is asked later, is refused. */
  close() {
    this.#end(new ClosedError("closed"));
  }

  /** @param {LoadRequest | RunRequest} request @param {Transferable[]} moved @returns {Promise<any>} */
  #ask(request, moved) {
    return new Promise((resolve, reject) => {
      if (this.#ended) return reject(this.#ended);
      this.#waiting.set(++this.#last, { resolve, reject });
      this.#worker.postMessage({ id: this.#last, ...request }, moved);
    });
  }

  /** @param {Error} error */
  #end(error) {
    this.#ended ??= error;
    this.#worker.terminate();
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}

/** The answer was no longer wanted. */
export class ClosedError extends Error {}
