"""Parametrizations of which a few cases run every day and the others with ``-m slow``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def slow_except(every_day: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """The arguments of ``pytest.mark.parametrize`` for ``cases``, marked slow except those in ``every_day``.

    A case for several arguments is a tuple.
    """
    every_day, cases = list(every_day), list(cases)
    missing = [case for case in every_day if case not in cases]
    assert not missing, f"no such cases: {missing}"
    return [case if case in every_day else _slow(case) for case in cases]


def _slow(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.slow)
