/** What the user gave, or this browser, cannot be used. The message says what was expected, what came and what to do. */
export class InputError extends Error {
  name = "InputError";
}
