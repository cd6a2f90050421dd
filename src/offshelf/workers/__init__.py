"""Processes that do work which may crash, hang, or have to be stopped in the middle.

A `WorkerPool` owns its processes. They are started afresh (never forked: a fork after gRPC has started cannot make
calls, and multiprocessing's spawn would import the parent's ``__main__`` again), and they speak length-prefixed JSON
and raw bytes over a socket: nothing that a worker sends is ever unpickled.

A worker dies with its parent, even in the middle of work and even inside C code that holds the interpreter's lock:
where the kernel can (Linux), it kills the worker when the parent's end of a pipe closes; elsewhere a thread does.
"""

from offshelf.workers.messages import Handler, Header
from offshelf.workers.pool import KEEPING_MEMORY, ONE_THREAD, WITHOUT_SECRETS, WorkerPool
from offshelf.workers.process import WorkerCrashed, WorkerTimeout

__all__ = [
    "KEEPING_MEMORY",
    "ONE_THREAD",
    "WITHOUT_SECRETS",
    "Handler",
    "Header",
    "WorkerCrashed",
    "WorkerPool",
    "WorkerTimeout",
]
