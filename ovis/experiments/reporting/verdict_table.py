"""Verdicts as a table for a spreadsheet, and as text for a terminal."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from ovis.experiments.reporting.verdict import ClaimStatus, ClaimVerdict

__all__ = ["COLUMNS", "claims_table", "claims_text", "count_verdicts"]

COLUMNS = (
    *("id", "figure", "verdict", "basis", "subject", "statement"),
    *("numbers", "reason", "fewest", "most", "unit", "published", "source"),
)

WIDTH = 100

#: Lines of what may be long, at most.
LINES = 3


def claims_table(verdicts: Sequence[ClaimVerdict]) -> pd.DataFrame:
    """One row per claim (and toy), columns :data:`COLUMNS`."""
    rows = [
        {
            "id": verdict.claim.id,
            "figure": verdict.claim.figure,
            "verdict": verdict.status.value,
            "basis": verdict.basis,
            "subject": verdict.subject,
            "statement": verdict.claim.statement,
            "numbers": verdict.numbers,
            "reason": verdict.reason,
            "fewest": verdict.fewest,
            "most": verdict.most,
            "unit": verdict.unit,
            "published": verdict.claim.published,
            "source": verdict.claim.source,
        }
        for verdict in verdicts
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def count_verdicts(verdicts: Sequence[ClaimVerdict]) -> str:
    """``11 claims: 5 hold, 1 does not hold, 5 not enough runs``."""
    counts = Counter(verdict.status for verdict in verdicts)
    claims = "1 claim" if len(verdicts) == 1 else f"{len(verdicts)} claims"
    held, failed = counts[ClaimStatus.HOLDS], counts[ClaimStatus.FAILS]
    parts = [
        f"{held} {'holds' if held == 1 else 'hold'}",
        f"{failed} {'does' if failed == 1 else 'do'} not hold",
        f"{counts[ClaimStatus.OPEN]} not enough runs",
    ]
    return f"{claims}: {', '.join(parts)}"


def claims_text(verdicts: Sequence[ClaimVerdict]) -> str:
    """What the paper says, what we find, and the numbers, a paragraph each; empty where there are no verdicts.

    Numbers are those of verdicts that have any comparison decided, as far as they fit; the table has all.
    """
    if not verdicts:
        return ""
    parts = [f"What the paper says: {count_verdicts(verdicts)}"]
    for verdict in verdicts:
        subject = f", {verdict.subject}" if verdict.subject else ""
        head = f"{verdict.status.value.upper()}  {verdict.claim.id} ({verdict.claim.figure}{subject}; {verdict.basis})"
        body = [_wrapped(verdict.claim.statement), _wrapped(verdict.reason, LINES)]
        if verdict.decided:
            published = verdict.claim.published
            body.append(_wrapped(f"ours: {verdict.numbers}", LINES))
            body.append(_wrapped(f"paper: {published}" if published else "", LINES))
        parts.append("\n".join([head, *filter(None, body)]))
    return "\n\n".join(parts) + "\n"


def _wrapped(line: str, most: int | None = None) -> str:
    """In lines that fit, so many at most."""
    return textwrap.fill(
        line,
        WIDTH,
        initial_indent="    ",
        subsequent_indent="      ",
        break_on_hyphens=False,
        max_lines=most,
        placeholder=" ... (claims.csv has all)",
    )
