"""Figures and counts as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offshelf.services.stats.comparison import Spread

_NAMES = {"f1": "F1", "auroc": "AUROC", "mcc": "MCC"}
_NUMBERS = {"mcc"}
"""Measures that are no share of anything, and so are not written in per cent."""
_SMALLEST_P = 0.001


def measure_name(measure: str) -> str:
    """Name of a measure in a sentence."""
    return _NAMES.get(measure, measure.replace("_", " "))


def is_share(measure: str) -> bool:
    """Whether a measure is written in per cent."""
    return measure not in _NUMBERS


def figure(measure: str, value: float) -> str:
    """Write a value of a measure, without its unit: 97.5 (per cent), or 0.951 for mcc."""
    text = f"{100 * value:.1f}" if is_share(measure) else f"{value:.3f}"
    return text.removeprefix("-") if float(text) == 0 else text


def with_unit(measure: str, value: float) -> str:
    """Write a value of a measure with its unit: 97.5 %, or 0.951 for mcc."""
    return f"{figure(measure, value)} %" if is_share(measure) else figure(measure, value)


def mean_and_spread(measure: str, spread: Spread) -> str:
    """Write as tables do: 97.5 (1.2)."""
    return f"{figure(measure, spread.mean)} ({figure(measure, spread.standard_deviation)})"


def p_value(value: float) -> str:
    """Write a p-value: three decimals, or that it is smaller."""
    return f"< {_SMALLEST_P}" if value < _SMALLEST_P else f"{value:.3f}"


def percent(part: int, whole: int) -> str:
    """Write a share in whole per cent, without calling a few none or most all."""
    if not 0 < part < whole:
        return "0 %" if part == 0 else "100 %"
    rounded = round(100 * part / whole)
    return {0: "< 1 %", 100: "> 99 %"}.get(rounded, f"{rounded} %")


def count(number: int, one: str, many: str = "") -> str:
    """Write a number and what is counted: 1 image, 2 images, 1,200 images."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listing(names: list[str], most: int) -> str:
    """Write names as a list in a sentence: a, b and c; or a, b and 5 more."""
    if len(names) > most + 1:
        names = [*names[:most], f"{len(names) - most} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
