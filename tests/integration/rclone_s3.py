"""A real S3 server for tests: a folder, served by rclone on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ACCESS_KEY = "contract-access"
SECRET_KEY = "contract-secret-never-shown"
BUCKET = "contract"


@dataclass(frozen=True)
class S3Server:
    """A running S3 server with one empty bucket."""

    address: str
    """Host and port."""
    environ: Mapping[str, str]
    """The keys, as a service has them."""
    folder: Path
    """What it serves; each bucket is a folder in it."""

    def url(self, prefix: str, bucket: str = BUCKET, *, address: str = "") -> str:
        """Address of a store under a prefix; at another address if a proxy stands before the server."""
        return f"s3://{bucket}/{prefix}?endpoint=http://{address or self.address}"


@contextmanager
def serve_s3(folder: Path) -> Iterator[S3Server]:
    """Serve an empty folder as S3 on a port of the kernel's choice."""
    (folder / BUCKET).mkdir()
    with serve_folder(folder) as address:
        keys = {"OFFSHELF_S3_ACCESS_KEY": ACCESS_KEY, "OFFSHELF_S3_SECRET_KEY": SECRET_KEY}
        yield S3Server(address, keys, folder)


@contextmanager
def serve_folder(folder: Path, *, address: str = "127.0.0.1:0", secret_key: str = SECRET_KEY) -> Iterator[str]:
    """Serve a folder as it is; yields host and port."""
    rclone = Path(sys.executable).with_name("rclone")
    environ = {**os.environ, "RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{secret_key}"', "RCLONE_CONFIG": os.devnull}
    command = [str(rclone), "serve", "s3", "--addr", address, str(folder)]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            seen: list[str] = []
            for line in process.stderr:
                seen.append(line)
                if found := re.search(r"http://(127\.0\.0\.1:\d+)/", line):
                    # Read on, or rclone would stop once the pipe is full.
                    rest = threading.Thread(target=process.stderr.read)
                    rest.start()
                    try:
                        yield found[1]
                    finally:
                        process.terminate()
                        rest.join()
                    return
            raise RuntimeError("rclone did not start: " + "".join(seen))
        finally:
            process.terminate()
