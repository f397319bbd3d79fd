"""Where tokens begin in the text that they make together."""

from codecs import getincrementaldecoder


class TokenPlaces:
    """Of tokens as they come, in characters. One of part of a character begins where the character does."""

    def __init__(self) -> None:
        self._length, self._characters = 0, getincrementaldecoder("utf-8")("replace")

    def next(self, token: bytes) -> int:
        """Where the next token begins, which is these bytes."""
        place = self._length
        self._length += len(self._characters.decode(token))
        return place
