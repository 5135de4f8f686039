class InputError(ValueError):
    """What the user gave cannot be used. The message says what was expected, what came and what to do."""
