"""How long to wait between attempts."""

from __future__ import annotations

import random


def full_jitter(failures: int, *, first: float, longest: float) -> float:
    """Draw how long to wait after so many failures in a row, in seconds.

    Anything from nothing to a limit that begins at `first` and doubles each time up to `longest`, so that all who lost
    something at one moment do not come back to it at one moment (M. Brooker, "Exponential Backoff and Jitter", AWS
    Architecture Blog, 2015).
    """
    return random.uniform(0.0, min(longest, first * 2.0 ** min(failures - 1, 30)))
