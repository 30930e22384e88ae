# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples, what is said of them, and the figures that scripts/bench reports."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from hotsnap.ui.output import table

DIGITS = 3


def rounded(value: float) -> float:
    return round(value, DIGITS)


@dataclass
class Series:
    """Samples of one quantity, in the order in which they were taken."""

    unit: str
    samples: list[float] = field(default_factory=list)

    def add(self, value: float) -> None:
        self.samples.append(value)

    @property
    def median(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    def report(self) -> dict[str, Any]:
        if not self.samples:
            return {"unit": self.unit, "n": 0, "samples": []}
        return {"unit": self.unit, "n": len(self.samples), "median": rounded(self.median or 0),
                "min": rounded(min(self.samples)), "max": rounded(max(self.samples)),
                "samples": [rounded(sample) for sample in self.samples]}


def ratio(over: float | None, under: float | None) -> float | None:
    return None if over is None or not under else over / under


def medians_by_name(samples: Iterable[dict[str, float]]) -> dict[str, float]:
    """For samples that are objects, such as the steps of pauses: the median of each key. A key
    that a sample lacks counts as 0 there: a step that was not done took no time."""
    samples = list(samples)
    names = list(dict.fromkeys(name for sample in samples for name in sample))
    return {name: rounded(statistics.median(sample.get(name, 0) for sample in samples))
            for name in names}


@dataclass
class Line:
    """A line of the table: a series, or one value with nothing to spread."""

    figure: str
    value: Series | float | int | None
    unit: str = ""
    target: str = ""


def _number(value: float | int | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return str(value)
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.2f}"


def show(lines: Sequence[Line]) -> str:
    rows = []
    for line in lines:
        if isinstance(line.value, Series):
            series, taken = line.value, line.value.samples
            rows.append((line.figure, series.unit, _number(series.median),
                         _number(min(taken, default=None)), _number(max(taken, default=None)),
                         len(taken), line.target))
        else:
            rows.append((line.figure, line.unit, _number(line.value), "", "", "", line.target))
    return table(("FIGURE", "UNIT", "MEDIAN", "MIN", "MAX", "N", "TARGET"), rows,
                 right="MEDIAN MIN MAX N")
