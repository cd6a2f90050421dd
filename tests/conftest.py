"""What all tests need of the process that they run in."""

from __future__ import annotations

import os
import signal
import tempfile


def pytest_configure() -> None:
    """Hear Ctrl-C, and let neither the web nor the user's own cache decide what is found.

    What a shell starts in the background ignores it, and so would all programs that tests interrupt.
    """
    os.environ["OFFSHELF_FETCH"] = "never"
    os.environ["XDG_CACHE_HOME"] = f"{tempfile.gettempdir()}/offshelf-no-cache"
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
