"""A claim's text, however it is broken in the source."""


def line(text: str) -> str:
    """One line of single blanks."""
    return " ".join(text.split())
