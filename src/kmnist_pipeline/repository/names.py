"""Names in messages: the answer to one that is not known, and any text in safe characters."""

import difflib
from collections.abc import Iterable

from kmnist_pipeline.errors import UserError


def unknown(problem: str, name: str, known: Iterable[str]) -> UserError:
    """An error that suggests the known name most like `name`, or lists all if none is like it."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
    return UserError(f"{problem}; {hint}")


def printable_lines(text: str) -> str:
    """The same lines, each printable."""
    return "\n".join(map(printable, text.split("\n")))


def printable(text: str) -> str:
    """The text with unprintable characters escaped: a terminal and a page only show it."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
