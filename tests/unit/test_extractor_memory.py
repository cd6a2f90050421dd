"""What the extractor's process does about memory."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

MANY_THREADS = """
import ctypes, sys, threading

from offshelf.services.extractor.memory import keep_little

keep_little()
barrier = threading.Barrier(9)

def allocate():
    held = bytearray(1 << 16)
    barrier.wait()
    del held
    barrier.wait()

for _ in range(8):
    threading.Thread(target=allocate).start()
barrier.wait()
barrier.wait()
import pyarrow
print(pyarrow.default_memory_pool().backend_name, flush=True)
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, file)
libc.fclose(file)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only the GNU C library has arenas")
def test_many_threads_share_few_heaps(tmp_path: Path) -> None:
    """However many threads an extractor has, they keep no more memory than two of them would."""
    info = tmp_path / "info.xml"
    done = subprocess.run([sys.executable, "-c", MANY_THREADS, info], check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.strip() == "system"
    assert 1 <= info.read_text().count("<heap nr=") <= 2
