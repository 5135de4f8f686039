// The camera: always its newest picture, never a queue of them.

import { InputError } from "./errors.js";

export class Camera {
  /** @type {MediaStream | null} */
  #stream = null;
  #video;

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video;
  }

  get running() {
    return this.#stream !== null;
  }

  /** @throws {InputError} If there is none, or it may not be used. */
  async start() {
    if (!navigator.mediaDevices) throw new InputError("expected an address by https, or localhost: only there do browsers give the camera. Open a file in its place.");
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      const { name, message } = /** @type {Error} */ (error);
      if (name === "NotAllowedError") {
        throw new InputError("expected permission for the camera, which was denied. Allow the camera for this address in the browser's settings, then try again.");
      }
      if (name === "NotFoundError") throw new InputError("expected a camera, found none. Connect one, or open a file in its place.");
      throw new InputError(`expected a camera that works: ${message || name}. Close other programs that use it, then try again.`);
    }
    for (const track of this.#stream.getTracks()) track.addEventListener("ended", () => this.stop());
    this.#video.srcObject = this.#stream;
    await this.#video.play();
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
  }

  /**
   * Gives the picture that is newest each time one is asked for, and how many were passed over since the one before.
   * @returns {AsyncGenerator<{picture: ImageBitmap, dropped: number}>}
   */
  async *pictures() {
    let last = 0;
    while (this.running) {
      const count = await this.#next();
      if (!this.running) return;
      if (count === null) continue;
      yield { picture: await createImageBitmap(this.#video), dropped: last ? Math.max(0, count - last - 1) : 0 };
      last = count;
    }
  }

  /** Waits for a new picture. @returns {Promise<number | null>} How many there have been, or `null` after a second without. */
  #next() {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#video.cancelVideoFrameCallback(wanted);
        resolve(null);
      }, 1000);
      const wanted = this.#video.requestVideoFrameCallback((_, { presentedFrames }) => {
        clearTimeout(timer);
        resolve(presentedFrames);
      });
    });
  }
}
