"""Results of all rounds, and what is made of them: medians, spreads, ratios."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.rates import Record

PEER = "postfix-tuned"
"""Whom the relay is compared with."""


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure of several rounds."""

    values: tuple[float, ...]

    def __str__(self) -> str:
        middle, low, high = (_digits(v) for v in (self.median, min(self.values), max(self.values)))
        return middle if low == high else f"{middle} ({low}–{high})"

    @property
    def median(self) -> float:
        """The figure that counts."""
        return statistics.median(self.values)


@dataclass(frozen=True, slots=True)
class Results:
    """The records of one or more runs of the rig."""

    records: tuple[Record, ...]

    @classmethod
    def of(cls, records: Iterable[Record]) -> Results:
        """Keep the rounds of different runs apart; each run begins with the record of its machine."""
        run = 0
        kept = []
        for record in records:
            run += record["kind"] == "machine"
            kept.append({**record, "round": (run, record.get("round"))})
        return cls(tuple(kept))

    def find(self, kind: str, **fields: object) -> list[Record]:
        """Return the records of a kind that have these values."""
        return [
            record
            for record in self.records
            if record["kind"] == kind and all(record.get(name) == value for name, value in fields.items())
        ]

    def distinct(self, kind: str, field: str) -> list[str]:
        """Return the values of a field, in the order in which they were first met."""
        return list(dict.fromkeys(record[field] for record in self.find(kind)))

    def spread(self, kind: str, field: str, *, unit: float = 1.0, **fields: object) -> Spread | None:
        """Return a figure, in multiples of ``unit``; None where there is none."""
        found = [record[field] / unit for record in self.find(kind, **fields) if field in record]
        return Spread(tuple(found)) if found else None

    def ratio(self, kind: str, field: str, peer: str = PEER, **fields: object) -> Spread | None:
        """Return the relay's figure over that of a peer, round by round."""
        ours = self._by_round(kind, field, server="relay", **fields)
        theirs = self._by_round(kind, field, server=peer, **fields)
        ratios = [ours[number] / theirs[number] for number in ours if theirs.get(number)]
        return Spread(tuple(ratios)) if ratios else None

    def _by_round(self, kind: str, field: str, **fields: object) -> dict[object, float]:
        return {record["round"]: record[field] for record in self.find(kind, **fields) if field in record}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; a None is a figure that there is not. "" where no row has any."""
    kept = [row for row in rows if any(cell is not None for cell in row[1:])]
    if not kept:
        return ""
    cells = [["–" if cell is None else str(cell) for cell in row] for row in kept]
    lines = [head, ["---"] * len(head), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def largest(spreads: Iterable[Spread | None]) -> Spread | None:
    """Return the one with the largest median."""
    return max((spread for spread in spreads if spread is not None), key=lambda s: s.median, default=None)


def _digits(value: float) -> str:
    """Return a number with three digits that say something."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if abs(value) >= 10 else 2}f}"
