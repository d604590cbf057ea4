"""The progress bars of long computations, which need tqdm."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Literal

__all__ = ["progress_bar"]


@contextlib.contextmanager
def progress_bar(
    title: str, total: int | None, shown: bool | Literal["terminal"], unit: str = "it"
) -> Iterator[Callable[[int], object]]:
    """A context with a progress bar on stderr, which is removed at its end.

    Args:
        title: what is computed.
        total: number of steps; None: unknown.
        shown: whether to show it; ``"terminal"``: if stderr is a terminal and tqdm is installed.
        unit: name of a step.

    Yields:
        n -> None, which advances the bar by n steps.

    Raises:
        ImportError: tqdm is not installed, though the bar is to be shown.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        if shown is True:
            raise ImportError("progress=True needs tqdm: pip install tqdm") from None
        shown = False
    if not shown:
        yield lambda n: None
        return
    disable = None if shown == "terminal" else False  # None: unless it is a terminal
    with tqdm(total=total, desc=title, unit=unit, leave=False, disable=disable) as bar:
        yield bar.update
