class InputError(ValueError):
    """What the user gave cannot be used. The message says what was expected, what came and what to do."""


def words(error):
    """Returns what an exception says, without the full stop that the sentence around it has."""
    return str(error).rstrip(". \n")


def printable(text):
    """Returns a text in one line, without what would move a terminal's cursor: names in a bundle or a folder may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.split()))
