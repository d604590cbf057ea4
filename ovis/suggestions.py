"""The end of an error message about an unknown name: what was probably meant, and what is valid. No torch."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["did_you_mean"]

#: A longer list of valid names is left out where one of them is clearly meant.
LISTED = 40


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """The end of an error message about an unknown name.

    >>> did_you_mean("vimko", ["vimco", "reinforce"])
    "; did you mean 'vimco'? Valid: vimco, reinforce"

    Args:
        name: the unknown name.
        valid: the names it could have been; duplicates are dropped.

    Returns:
        ``; did you mean 'x'? Valid: a, b, ...``, without the question where nothing is close, and without the list
        where it is longer than 40 names and one of them is clearly meant.
    """
    valid = list(dict.fromkeys(valid))
    close = [other for other in valid if other.lower() == name.lower()]
    close = close or difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    clear = len(valid) > LISTED and difflib.get_close_matches(name.lower(), [c.lower() for c in close], cutoff=0.7)
    return hint if clear else f"{hint} Valid: {', '.join(valid)}"
