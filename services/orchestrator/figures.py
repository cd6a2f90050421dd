"""What is counted while runs go on, for whoever exports it; nothing here knows how."""

from __future__ import annotations

from typing import Protocol


class Figures(Protocol):
    """Takes counts as they come. Called in the event loop; must not block."""

    def unit_ended(self, role: str, outcome: str, seconds: float) -> None:
        """Count an attempt at a unit, and its time.

        The outcomes are "done", "lost" (with the replica), "unreached", "store" and "engine" (away), and "failed".
        """
        ...

    def unit_retried(self, role: str, reason: str) -> None:
        """Count a unit that is sent again, and why: as the outcomes of `unit_ended`."""
        ...

    def images(self, extractor: str, outcome: str, count: int) -> None:
        """Count images: "extracted", "reused", "quarantined" or "unread"."""
        ...

    def cache(self, what: str, *, hits: int, misses: int) -> None:
        """Count look-ups of finished work in the store: "features" (images), "scores" (folds) or "model"."""
        ...

    def run_ended(self, state: str) -> None:
        """Count a run that has ended: "succeeded", "failed" or "cancelled"."""
        ...


class NoFigures:
    """Counts nothing."""

    def unit_ended(self, role: str, outcome: str, seconds: float) -> None:
        """Do nothing."""

    def unit_retried(self, role: str, reason: str) -> None:
        """Do nothing."""

    def images(self, extractor: str, outcome: str, count: int) -> None:
        """Do nothing."""

    def cache(self, what: str, *, hits: int, misses: int) -> None:
        """Do nothing."""

    def run_ended(self, state: str) -> None:
        """Do nothing."""
