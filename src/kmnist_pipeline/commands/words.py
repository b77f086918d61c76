"""Words that several commands use in their messages."""


def count(number: int, noun: str) -> str:
    """A number of things in words, such as `1 file` or `2 files`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
