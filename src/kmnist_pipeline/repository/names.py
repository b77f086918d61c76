"""The answer to a name that is not known."""

import difflib
from collections.abc import Iterable

from kmnist_pipeline.errors import UserError


def unknown(problem: str, name: str, known: Iterable[str]) -> UserError:
    """An error that suggests the known name most like `name`, or lists all if none is like it."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(names)}"
    return UserError(f"{problem}; {hint}")
