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
class Figure:
    """A figure that sums a table up, what is aimed at, and what limits it."""

    what: str
    value: float
    aim: float
    limited_by: str
    unit: str = ""
    at_most: bool = True

    def cells(self) -> tuple[str, str, str, str]:
        sign = "≤" if self.at_most else "≥"
        return self.what, f"{number(self.value)}{self.unit}", f"{sign} {number(self.aim)}{self.unit}", self.limited_by


@dataclass
class Table:
    """One table of figures, with those that sum it up."""

    title: str
    about: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, *cells: str | float | int | None) -> None:
        """Add a row; numbers are rounded to what can be told apart."""
        self.rows.append([cell if isinstance(cell, str) else number(cell) for cell in cells])

    def markdown(self, level: int = 2) -> str:
        """The table as it stands in the documentation."""
        return "\n\n".join([f"{'#' * level} {self.title}", self.about, grid(self.columns, self.rows), *self.notes])


def figure_grid(figures: Iterable[Figure]) -> str:
    """What was measured, what is aimed at, and what limits it."""
    return grid(("figure", "measured", "aim", "what limits it"), [figure.cells() for figure in figures])


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
