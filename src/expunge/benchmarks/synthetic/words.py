"""Lists of words, written as one line."""


def words(text: str) -> list[str]:
    """The words of a text that spaces separate."""
    return text.split()
