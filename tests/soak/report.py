"""What a soak tells: counts, and what was wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Report:
    """The result of one soak."""

    title: str
    counts: dict[str, object] = field(default_factory=dict)
    happened: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def blame(self, where: str, *words: str) -> None:
        self.faults += [f"{where}: {one}" for one in words]

    def __str__(self) -> str:
        lines = [f"{self.title}: {'FAILED' if self.faults else 'passed'}"]
        lines += [f"  {what:<28} {count:,}" if isinstance(count, int) else f"  {what:<28} {count}"
                  for what, count in self.counts.items()]  # fmt: skip
        lines += [f"  {what.replace('_', ' '):<28} {count:,}" for what, count in sorted(self.happened.items())]
        return "\n".join([*lines, *(f"  FAULT {fault}" for fault in self.faults)])
