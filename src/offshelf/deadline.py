"""For how long somebody still waits for the answer that the current code works on.

Whatever a service asks of other servers by gRPC on the way to an answer is given no more time than is left of the call
that it serves. (A store is not asked again once that call is over: `offshelf.store.patience`.) That holds for the work
which a call is not over without (`offshelf.rpc.offload`), in all its threads. A task that a call merely starts, a run
for example, inherits the context of the call and is not bound: it outlives the call.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Final, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")

_CALL_DUE: Final[ContextVar[float | None]] = ContextVar("offshelf_call_due", default=None)
_WORK_DUE: Final[ContextVar[float | None]] = ContextVar("offshelf_work_due", default=None)


def call_is_due_in(seconds: float | None) -> None:
    """Say for how many seconds the client of the call that this context serves waits; None: as long as it takes."""
    _CALL_DUE.set(None if seconds is None else time.monotonic() + seconds)


def bind_to_call() -> None:
    """Let what this context does be due when its call is."""
    _WORK_DUE.set(_CALL_DUE.get())


def unbound(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what others wait for as well, and perhaps longer: it is not due when the call is that happens to do it."""
    context = copy_context()
    context.run(_WORK_DUE.set, None)
    return context.run(work, *args, **kwargs)


def at_most(seconds: float) -> float:
    """Return a time, in seconds, or what is left until the work of this context is due if that is less; never < 0."""
    due = _WORK_DUE.get()
    return seconds if due is None else max(0.0, min(seconds, due - time.monotonic()))
