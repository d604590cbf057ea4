"""What the tests ask of rows of claims."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ovis.paper.claims.compare import Configuration, PaperClaim


def configurations(claims: Iterable[PaperClaim]) -> Iterator[Configuration]:
    """Every configuration that the claims compare."""
    for claim in claims:
        for comparison in claim.comparisons:
            yield from comparison.who
            if not isinstance(comparison.reference, float | int):
                yield from comparison.reference
