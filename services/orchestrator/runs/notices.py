"""What is in the way of a run at the moment. It is told, and not kept."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Notices:
    """One line for each thing that hampers a run, for as long as it does.

    Parameters
    ----------
    on_change
        Called when there is a new line, or one less.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._lines: dict[object, str] = {}

    @property
    def lines(self) -> tuple[str, ...]:
        """All lines, each once, in the order in which they came up."""
        return tuple(dict.fromkeys(self._lines.values()))

    @contextmanager
    def topic(self) -> Iterator[Callable[[str], None]]:
        """Make a function that sets the line of one topic, or takes it back with ""; it is gone with the context."""
        topic = object()

        def tell(line: str) -> None:
            if line != self._lines.get(topic, ""):
                if line:
                    self._lines[topic] = line
                else:
                    del self._lines[topic]
                self._on_change()

        try:
            yield tell
        finally:
            tell("")
