"""Text that goes in and out as it is typed and drawn."""

import unicodedata


def encodable(text: str) -> str:
    """The text with a question mark for half a surrogate pair, which a terminal and JSON may give."""
    return text.encode("utf-8", "replace").decode()


def settled(text: str) -> str:
    """What later tokens don't change: without the character at the end whose last bytes have not come yet."""
    return text.removesuffix("\N{REPLACEMENT CHARACTER}")


def printable(text: str) -> str:
    """Without control characters but newline and tab: some would move a terminal's cursor, or worse."""
    return "".join(char for char in text if char in "\n\t" or unicodedata.category(char) != "Cc")
