"""Signs of life of a process that owes an answer: slow work uses the processor, stuck work does not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_LOOK_SECONDS: Final = 1.0

_COUNTED_SECONDS: Final = 5.0
"""Most seconds between two looks that count. Where there were more, this process did not run either: the machine slept,
or somebody had paused the container."""

_USER: Final = 11
_KERNEL: Final = 12
"""Places of the ticks spent in each among the fields after the name in /proc/PID/stat (proc(5))."""


def ticks_of(pid: int) -> int | None:
    """Read how much processor time a process has used, in ticks (hundredths of a second); None beyond Linux."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[_USER]) + int(fields[_KERNEL])


class Pulse:
    """Finds out that a process has not used the processor for long, from now on.

    Parameters
    ----------
    pid
        The process.
    seconds
        After so many it counts as stuck.
    used
        Tells the processor time that a process has used; None where nobody knows, and then it never counts as stuck.
    clock
        Gives the time in seconds.
    """

    def __init__(
        self,
        pid: int,
        seconds: float,
        *,
        used: Callable[[int], int | None] = ticks_of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid = pid
        self._seconds = seconds
        self._used_by = used
        self._clock = clock
        self._looked = clock()
        self._used = used(pid)
        self._still = 0.0

    def is_missed(self) -> bool:
        """Tell whether the process is stuck; looks no more often than is worth it."""
        passed = self._clock() - self._looked
        if passed < min(_LOOK_SECONDS, self._seconds):
            return False
        self._looked += passed
        used = self._used_by(self._pid)
        stands = used is not None and used == self._used
        self._used = used
        self._still = self._still + min(passed, _COUNTED_SECONDS) if stands else 0.0
        return self._still >= self._seconds
