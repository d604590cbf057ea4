"""Runs selected on the command line: by key, by name, or by words that they contain."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from ovis.experiments.runs.identity import command_line
from ovis.experiments.runs.status import Record

__all__ = ["SelectionError", "find_runs", "pick_runs"]

#: Candidates that an error message names.
SHOWN = 3


class SelectionError(ValueError):
    """No run, or more than one, matches: one line that names candidates."""


def find_runs(records: Sequence[Record], text: str) -> list[Record]:
    """The runs whose name, key or options contain all the words of ``text``, in any order; capitals do not matter.

    Raises:
        SelectionError: there is no word in it, which would mean all runs.
    """
    words = text.casefold().split()
    if not words:
        raise SelectionError("there is no word to find; leave --find out to mean all runs")
    texts = [f"{r.name} {r.key} {command_line(r.settings)}".casefold() for r in records]
    return [record for record, text in zip(records, texts, strict=True) if all(word in text for word in words)]


def pick_runs(records: Sequence[Record], texts: Iterable[str]) -> list[Record]:
    """The runs named by ``texts``: keys, unambiguous beginnings of keys, or names; several are separated by commas.

    Raises:
        SelectionError: one of them matches no run, or more than one.
    """
    by_name = {name: record for record in records for name in (record.name, record.key)}
    words = [word.strip() for text in texts for word in text.split(",")]
    picked = {record.key: record for word in words for record in [by_name.get(word) or _by_prefix(records, word)]}
    return list(picked.values())


def _by_prefix(records: Sequence[Record], word: str) -> Record:
    matches = [record for record in records if word and record.key.startswith(word)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        more = f" and {len(matches) - SHOWN} more" if len(matches) > SHOWN else ""
        candidates = ", ".join(f"{record.key} ({record.name})" for record in matches[:SHOWN])
        raise SelectionError(f"{word!r} could be {candidates}{more}: say more of the key")
    names = [name for record in records for name in (record.key, record.name)]
    close = difflib.get_close_matches(word, names, n=SHOWN, cutoff=0.5)
    hint = f"nearest: {', '.join(close)}" if close else "--check or --find shows them"
    raise SelectionError(f"no run has the key or name {word!r}; {hint}")
