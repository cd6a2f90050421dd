"""An orchestrator over S3 in this process, and what its users do in processes of their own."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from offshelf.services.orchestrator.application import OrchestratorService
from offshelf.services.orchestrator.fleet.local import LocalFleet
from offshelf.settings import Settings
from offshelf.store import open_store
from tests.e2e.installation import write_photo
from tests.integration.fixed_fleet import OpenTenure
from tests.integration.rclone_s3 import BUCKET
from tests.integration.stand_ins import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from offshelf.services.orchestrator.fleet.replicas import Fleet
    from tests.integration.rclone_s3 import S3Server

QUICK = ("-e", "hsv444", "-c", "LR", "--folds", 3)


def write_photos(folder: Path) -> Path:
    """Write a small dataset."""
    for number in range(6):
        for label in range(2):
            write_photo(folder / str(label) / f"{number}.png", label, number)
    return folder


@asynccontextmanager
async def orchestrating(
    tmp_path: Path, s3: S3Server, token_file: Path, fleet: Fleet, *, bucket: str = BUCKET, tls: Path | None = None
) -> AsyncIterator[str]:
    """Serve an orchestrator over S3 with these replicas; yields its address."""
    url = s3.url(tmp_path.name, bucket)
    settings = Settings(store=url, token_file=token_file, cores=2)
    store = await asyncio.to_thread(open_store, url, environ=s3.environ, patience=1)
    service = OrchestratorService(settings, store, OpenTenure(fleet, token_file, tls))
    async with served(service, settings) as server:
        yield server.address


def local_fleet(tmp_path: Path, s3: S3Server, token_file: Path, store: str) -> LocalFleet:
    """Make a fleet of real processes over a store."""
    environment = {
        **os.environ,
        **s3.environ,
        "OFFSHELF_STORE": store,
        "OFFSHELF_HOST": "127.0.0.1",
        "OFFSHELF_TOKEN_FILE": str(token_file),
    }
    (tmp_path / "logs").mkdir(exist_ok=True)
    return LocalFleet(environment=environment, logs=tmp_path / "logs", slots=2, grace=2)


@asynccontextmanager
async def started(
    address: str, token_file: Path, *arguments: object, **environ: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Have a command running."""
    own = {"OFFSHELF_SERVER": address, "OFFSHELF_TOKEN_FILE": str(token_file), **environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "offshelf.cli", *map(str, arguments)),
        env={**os.environ, **own},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def offshelf(address: str, token_file: Path, *arguments: object, **environ: str) -> tuple[int | None, str]:
    """Run a command to its end; gives its exit code and all that it wrote."""
    async with started(address, token_file, *arguments, **environ) as process:
        shown = (await process.communicate())[0].decode()
    return process.returncode, shown
