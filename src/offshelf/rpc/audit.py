"""Around every call of a door: what goes into the audit log."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

from offshelf.audit import Deed
from offshelf.rpc.auth import caller_of_call
from offshelf.rpc.metrics import status_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from offshelf.audit import AuditTrail
    from offshelf.rpc.interceptors import Call

_FLUSH_SECONDS: Final = 2.0
_TARGETS: Final = ("run_id", "digest", "model", "request_id")
"""Fields of requests that name what a call is about, the first that is there; none of them holds content."""


class Auditor:
    """Records the calls of one server; `around` is the layer that does so.

    It lies around the layer that lets callers in, so that those who are refused are recorded too.
    """

    def __init__(self, trail: AuditTrail) -> None:
        self._trail = trail
        self._writing = asyncio.ensure_future(self._write())

    @contextlib.asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Record one call when it has ended."""
        outcome = "UNKNOWN"
        try:
            yield
            outcome = status_name(call)
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        except BaseException:
            outcome = status_name(call)
            raise
        finally:
            caller = caller_of_call.get()
            method = call.method.rpartition("/")[2] if call.known else "unknown"
            self._trail.record(Deed(caller.name if caller else "", method, _target(call.request), outcome))

    async def close(self) -> None:
        """Write what is left."""
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        await asyncio.to_thread(self._trail.flush)

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            await asyncio.to_thread(self._trail.flush)


def _target(request: Any) -> str:
    """Name what a request is about; a stream of requests is about nothing by name."""
    fields = getattr(getattr(request, "DESCRIPTOR", None), "fields_by_name", ())
    return next((str(getattr(request, name)) for name in _TARGETS if name in fields), "")
