"""What the figures of a benchmark have to reach, and how each benchmark ends: a line of JSON and an exit status."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure has to reach: `Bar("import_s", "at most", 0.5)`."""

    name: str
    """Name of the figure; of one among several, both names with a dot between: "ready_s.googlenet"."""
    direction: Literal["at most", "at least"]
    limit: float

    def is_met(self, figure: float | None) -> bool:
        """Whether a figure reaches it. One that was not measured does not: a misspelt bar would never be missed."""
        if figure is None:
            return False
        return figure <= self.limit if self.direction == "at most" else figure >= self.limit


def report(figures: Mapping[str, Any], bars: Iterable[Bar]) -> int:
    """Print the figures and which bars they miss, as one JSON object on one line: the last of a benchmark.

    Parameters
    ----------
    figures
        What was measured, by name, perhaps several by names of their own. Fractions are printed with four decimals, and
        held to the bars as they are printed.
    bars
        The bars of what was measured. The object's `missed` lists those that are not reached: name, figure (null if
        there is none), direction and limit.

    Returns
    -------
    int
        The exit status of the benchmark: 1 if a bar is missed, else 0.
    """
    printed = {name: _rounded(figure) for name, figure in figures.items()}
    missed = [
        {"name": bar.name, "figure": _named(bar.name, printed), "direction": bar.direction, "limit": bar.limit}
        for bar in bars
        if not bar.is_met(_named(bar.name, printed))
    ]
    print(json.dumps({**printed, "missed": missed}))
    return 1 if missed else 0


def _rounded(figure: Any) -> Any:
    if isinstance(figure, dict):
        return {str(name): _rounded(one) for name, one in figure.items()}
    return round(figure, 4) if isinstance(figure, float) else figure


def _named(name: str, figures: Mapping[str, Any]) -> float | None:
    first, dot, rest = name.partition(".")
    figure = figures.get(first)
    if dot:
        return _named(rest, figure) if isinstance(figure, dict) else None
    return figure
