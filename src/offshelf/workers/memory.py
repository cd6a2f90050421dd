"""A limit on the memory of one piece of work: what hostile input asks for beyond it fails, and the process goes on."""

from __future__ import annotations

import resource
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_DATA: Final = 5
"""Place of the pages of data and stack in /proc/self/statm (proc(5))."""


@contextmanager
def more_memory_at_most(limit: int) -> Iterator[None]:
    """Let this process take so many bytes more than it has; what asks for more within the block gets `MemoryError`.

    C libraries may put it otherwise. Only Linux counts; elsewhere there is no limit. For a process with one thread.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[_DATA])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = pages * resource.getpagesize() + limit
    bounds = [bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *bounds]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
