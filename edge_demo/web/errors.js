/** What the user gave, or this browser, cannot be used. The message says what was expected, what came and what to do. */
export class InputError extends Error {
  name = "InputError";

  /** @param {string} message @param {string} [details] What a library or the browser said, for who looks for the cause. */
  constructor(message, details = "") {
    super(message);
    this.details = details;
  }
}
