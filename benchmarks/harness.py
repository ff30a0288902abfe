"""Measuring side by side: interleaved rounds, medians, ratios, and tables to print."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


def interleave(candidates: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Run A B C A B C ..., so that a busy moment of the machine falls upon all of them."""
    results: dict[str, list[Any]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, measure in candidates.items():
            results[name].append(measure())
    return results


def medians(results: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of each candidate's rounds."""
    return {name: statistics.median(values) for name, values in results.items()}


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which this share of all values lies."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


@dataclass(frozen=True)
class Target:
    """A figure that is to be reached."""

    what: str
    value: float
    limit: float
    at_most: bool = True
    unit: str = ""

    @property
    def is_reached(self) -> bool:
        if self.value < 0:  # a difference that got lost in the noise is no figure
            return False
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def cells(self) -> tuple[str, str, str, str]:
        sign = "≤" if self.at_most else "≥"
        wanted = f"{sign} {number(self.limit)}{self.unit}"
        return self.what, wanted, f"{number(self.value)}{self.unit}", "reached" if self.is_reached else "**missed**"


@dataclass
class Table:
    """One table of figures, with the targets it answers for."""

    title: str
    about: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str | float | int | None) -> None:
        """Add a row; numbers are rounded to what can be told apart."""
        self.rows.append([cell if isinstance(cell, str) else number(cell) for cell in cells])

    def markdown(self, level: int = 2) -> str:
        """The table as it stands in the documentation."""
        parts = [f"{'#' * level} {self.title}", self.about, grid(self.columns, self.rows)]
        if self.targets:
            parts.append(target_grid(self.targets))
        parts.extend(self.notes)
        return "\n\n".join(parts)


def target_grid(targets: Iterable[Target]) -> str:
    """Targets and what was measured."""
    return grid(("target", "wanted", "measured", ""), [target.cells() for target in targets])


def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table that is readable as text as well."""
    lines = [list(columns), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    padded = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    rule = " | ".join("-" * max(width, 3) for width in widths)
    return "\n".join(f"| {line} |" for line in (padded[0], rule, *padded[1:]))


def number(value: float | int | None) -> str:
    """Three significant digits; whole numbers with their thousands apart."""
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"
