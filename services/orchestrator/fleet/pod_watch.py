"""The pods of the installation as the API tells of them, kept up to date whatever happens to the API."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

from offshelf.backoff import full_jitter
from offshelf.errors import OffshelfError
from offshelf.services.orchestrator.fleet.cluster_api import ClusterUnavailable, WatchExpired
from offshelf.services.orchestrator.fleet.pods import Pod, read_pod

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.services.orchestrator.fleet.cluster_api import Change, Listing, Manifest, PodApi

_log = logging.getLogger(__name__)


class PodWatch:
    """Lists the pods, then watches them; begins anew when the API has been away or has forgotten the version.

    While the API is away, the pods stay as they were last seen.

    Attributes
    ----------
    pods
        The pods by name.
    away
        Why nothing is heard from the API at the moment; None when it is heard.
    """

    def __init__(
        self,
        api: PodApi,
        on_change: Callable[[Pod | None, Pod | None], None],
        *,
        back_off: tuple[float, float] = (0.5, 10),
    ) -> None:
        """`on_change` is given what a pod was and is; `back_off` says the first and the longest pause, in seconds."""
        self.pods: dict[str, Pod] = {}
        self.away: OffshelfError | None = ClusterUnavailable("The Kubernetes API has not answered yet.")
        self._api = api
        self._on_change = on_change
        self._back_off = back_off
        self._failures = 0
        self._is_told_away = True
        self._heard_since = 0.0
        self._changed = asyncio.Event()

    async def changed(self, seconds: float) -> None:
        """Wait until something changes, or for so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Watch until cancelled."""
        first, longest = self._back_off
        clock = asyncio.get_running_loop().time
        while True:
            reason = await self._watch_while_possible()
            if self.away is None and clock() - self._heard_since > longest:
                self._failures = 0  # not before: the API may answer each time, and each watch fail over the same event
            if isinstance(reason, WatchExpired):
                _log.info("the watch of the pods is too old; listing them again")
                await asyncio.sleep(first)
                continue
            if self._failures == 0:
                known = {"reason": reason.message, "pods": len(self.pods)}
                _log.warning("the pods cannot be watched; going on with those that are known", extra=known)
                self._is_told_away = True
            self.away = reason
            self._failures += 1
            self._tell()
            await asyncio.sleep(full_jitter(self._failures, first=first, longest=longest))

    async def _watch_while_possible(self) -> OffshelfError:
        """List, then watch; returns why that came to an end."""
        try:
            version = self._take_all(await self._api.list_pods())
            while True:
                version = await self._follow(version)
                await asyncio.sleep(self._back_off[0] / 10)  # a watch that ends at once must not become a storm
        except OffshelfError as error:
            return error
        except Exception as error:  # noqa: BLE001  (whatever it is, the next list may go well)
            _log.exception("the watch of the pods failed")
            return ClusterUnavailable(f"The watch of the pods failed ({type(error).__name__}).")

    async def _follow(self, version: str) -> str:
        """Watch once; returns the version that was reached when the watch ended in order."""
        async with aclosing(self._api.watch_pods(version)) as changes:
            async for change in changes:
                version = change.version
                self._hear()
                self._take(change)
        return version

    def _take_all(self, listing: Listing) -> str:
        self._hear()
        found = {manifest["metadata"]["name"]: manifest for manifest in listing.items}
        for name in self.pods.keys() - found.keys():
            self._replace(name, None)
        for name, manifest in found.items():
            self._replace(name, manifest)
        return listing.version

    def _take(self, change: Change) -> None:
        if change.kind != "BOOKMARK":
            self._replace(change.item["metadata"]["name"], None if change.kind == "DELETED" else change.item)

    def _replace(self, name: str, manifest: Manifest | None) -> None:
        old, new = self.pods.get(name), _understand(manifest)
        if old == new:
            return
        if new is None:
            del self.pods[name]
        else:
            self.pods[name] = new
        self._on_change(old, new)
        self._tell()

    def _hear(self) -> None:
        if self.away is None:
            return
        if self._is_told_away:
            _log.info("the pods are watched")
            self._is_told_away = False
        self.away = None
        self._heard_since = asyncio.get_running_loop().time()
        self._tell()

    def _tell(self) -> None:
        """Wake all that wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()


def _understand(manifest: Manifest | None) -> Pod | None:
    try:
        return read_pod(manifest) if manifest else None
    except (AttributeError, KeyError, TypeError, ValueError):
        # One odd pod must not end the watch for all.
        _log.exception("a pod cannot be understood")
        return None
