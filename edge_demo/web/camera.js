// The camera: always its newest picture, never a queue of them.

import { InputError } from "./errors.js";

export class Camera {
  /** @type {MediaStream | null} */
  #stream = null;
  /** Of starts and stops: what began before the last of them is out of date. */
  #turn = 0;
  #video;

  /** @param {HTMLVideoElement} video */
  constructor(video) {
    this.#video = video;
  }

  get running() {
    return this.#stream !== null;
  }

  /**
   * @returns {Promise<MediaStream | null>} `null` if the camera was stopped, or started again, before it was there.
   * @throws {InputError} If there is none, or it may not be used.
   */
  async start() {
    if (!navigator.mediaDevices) throw new InputError("expected an address by https, or localhost: only there do browsers give the camera. Open a file in its place.");
    this.stop();
    const turn = this.#turn;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      if (turn !== this.#turn) {
        end(stream);
        return null;
      }
      this.#stream = this.#video.srcObject = stream;
      await this.#video.play();
      return turn === this.#turn ? stream : null;
    } catch (error) {
      if (turn !== this.#turn) return null;
      this.stop();
      const { name, message } = /** @type {Error} */ (error);
      if (name === "NotAllowedError") {
        throw new InputError("expected permission for the camera, which was denied. Allow the camera for this address in the browser's settings, then try again.");
      }
      if (name === "NotFoundError") throw new InputError("expected a camera, found none. Connect one, or open a file in its place.");
      throw new InputError("expected a camera that works, received one that does not start. Close other programs that use it, then try again.", `${name}: ${message}`);
    }
  }

  stop() {
    this.#turn++;
    end(this.#stream);
    this.#stream = this.#video.srcObject = null;
  }

  /** Whether this is what it shows, and not an earlier start of it. @param {MediaStream} stream */
  shows(stream) {
    return this.#stream === stream;
  }

  /**
   * Gives the picture that is newest each time one is asked for, and how many were passed over since the one before.
   * @param {MediaStream} stream Of `start`; when it is stopped, they end.
   * @returns {AsyncGenerator<{picture: ImageBitmap, dropped: number}>}
   * @throws {InputError} If the camera ends by itself.
   */
  async *pictures(stream) {
    let last = 0;
    while (this.shows(stream)) {
      const count = await this.#next();
      if (!this.shows(stream)) return;
      if (stream.getTracks().some(({ readyState }) => readyState === "ended")) {
        throw new InputError("expected pictures from the camera, which ended by itself. Connect it again, then try again.");
      }
      if (count === null) continue;
      const picture = await createImageBitmap(this.#video).catch((error) => {
        if (this.shows(stream)) throw error;
      });
      if (!picture) return;
      if (!this.shows(stream)) return picture.close();
      yield { picture, dropped: last ? Math.max(0, count - last - 1) : 0 };
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

/** @param {MediaStream | null} stream */
function end(stream) {
  for (const track of stream?.getTracks() ?? []) track.stop();
}
