"""Processes that believe it is another time of day than it is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_suffix(".c")


def build_wrong_clock(folder: Path) -> Path:
    """Compile what makes a clock wrong into a folder; where there is no compiler, the test is skipped."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc), and so no way to have a wrong clock")
    library = folder / "wrong_clock.so"
    # Without the compiler's own start files, which may ask for a newer libc than an image has.
    options = ("-shared", "-fPIC", "-O1", "-nostartfiles", "-Wall", "-Wextra", "-Werror")
    subprocess.run([compiler, *options, "-o", str(library), str(_SOURCE)], check=True)
    return library


def wrong_clock(library: Path | str, seconds: int) -> dict[str, str]:
    """Give the variables with which a process has its clock so many seconds ahead."""
    return {"LD_PRELOAD": str(library), "WRONG_CLOCK_SECONDS": str(seconds)}
