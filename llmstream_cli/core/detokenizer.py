"""From token bytes to text."""

import codecs

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """Joins the bytes of tokens to text, one stream at a time.

    A token often holds a part of a character, so its bytes wait until the character is complete.
    Bytes that are no UTF-8 become U+FFFD, as everywhere in Python's codecs.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, data: bytes) -> str:
        """Add the bytes of a token; return the characters that are now complete."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """End the stream; an incomplete character becomes one U+FFFD."""
        return self._decoder.decode(b"", final=True)
