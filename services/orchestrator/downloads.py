"""Weights of networks that are missing: downloaded here, before an extractor is started that needs them.

An extractor has to be ready within minutes, and a download may take longer; and who waits for a run sees how it stands.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

from offshelf.extraction.weights.downloads import in_steps
from offshelf.extraction.weights.finding import fetch_weights, source_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.extraction.weights.downloads import Progress
    from offshelf.extraction.weights.fetching import FetchPolicy

_AT_A_TIME: Final = 2
"""More would share one line, and end later each."""


class Downloads:
    """Downloads weights into the folder where the services of this machine look for them.

    Parameters
    ----------
    weights, fetch
        Where that is, `Settings.weights`, and who may be asked.
    """

    def __init__(self, weights: str, fetch: FetchPolicy) -> None:
        self._weights = weights
        self._fetch = fetch
        self._threads = ThreadPoolExecutor(_AT_A_TIME, thread_name_prefix="weights")

    async def fetch(self, spec: ExtractorSpec, tell: Callable[[str], None]) -> None:
        """Download an extractor's weights; cancelling stops it, and what has come is kept for the next time.

        Parameters
        ----------
        spec
            The extractor.
        tell
            Given a line when there is something new to say.

        Raises
        ------
        OffshelfError
            As `fetch_weights`.
        """
        loop = asyncio.get_running_loop()
        stop = threading.Event()

        def say(progress: Progress) -> None:
            line = f"the weights of {spec.name} are being downloaded: {progress}"
            loop.call_soon_threadsafe(lambda: None if stop.is_set() else tell(line))

        def work() -> None:
            fetch_weights(spec, self._weights, self._fetch, on_progress=in_steps(say), stop=stop)

        tell(f"the weights of {spec.name} are being downloaded: {source_of(spec, self._fetch)}")
        try:
            await loop.run_in_executor(self._threads, work)
        finally:
            stop.set()

    def close(self) -> None:
        """Begin no more downloads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
