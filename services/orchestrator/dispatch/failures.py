"""Ways in which a unit fails that say something about the unit or its replica, and not about the store."""

from __future__ import annotations

from offshelf.errors import OffshelfError, Unavailable


class UnitLost(OffshelfError):
    """A unit has cost every replica that worked on it and nothing else."""


class Unreached(Unavailable):
    """No connection to the right replica came about, so nobody worked on the unit: it is not to blame."""


class ResultRefused(OffshelfError):
    """Whoever takes the results of a unit could not; the unit and its replica are fine."""

    def __init__(self, error: OffshelfError) -> None:
        super().__init__(error.message)
        self.error = error
