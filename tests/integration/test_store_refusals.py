"""A store that begins to refuse while an orchestrator runs: its keys are changed, or its bucket is deleted."""

from __future__ import annotations

import asyncio
import re
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import pytest

from offshelf.services.orchestrator.fleet.replicas import Role, keep_quiet
from tests.integration.orchestrating import QUICK, local_fleet, offshelf, orchestrating, started, write_photos
from tests.integration.rclone_s3 import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, serve_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from offshelf.services.orchestrator.fleet.replicas import Fleet

pytestmark = pytest.mark.timeout(120)

STORE = r"The store at \S+"
SAID = {
    "keys": rf"{STORE} does not accept the secret key \(SignatureDoesNotMatch\): check OFFSHELF_S3_SECRET_KEY\.",
    "bucket": rf"{STORE} has no bucket '{BUCKET}': correct the address, or create it \(aws s3 mb .*\)\.",
}

NO_WORDS = rf"{STORE} does not let these keys read in bucket '{BUCKET}' \(AccessDenied\): allow it, or check the keys\."
"""What is said of wrong keys where a server answers with a status alone: whether there is an object."""


class HeldBack:
    """A fleet that gives nobody replicas until it may."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.pool, self.role_of, self.blames, self.close = fleet.pool, fleet.role_of, fleet.blames, fleet.close
        self.asked, self.may = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def hold(
        self, role: Role, *, units: int = 1, tell: Callable[[str], None] = keep_quiet
    ) -> AsyncIterator[None]:
        """Wait, then have replicas."""
        self.asked.set()
        await self.may.wait()
        async with self._fleet.hold(role, units=units, tell=tell):
            yield


@contextmanager
def refusing(why: str, server: S3Server) -> Iterator[None]:
    """Serve a folder with other keys, or without the bucket."""
    bucket, put_away = server.folder / BUCKET, server.folder.with_name("put-away")
    if why == "bucket":
        bucket.rename(put_away)
    with serve_folder(server.folder, address=server.address, secret_key="another" if why == "keys" else SECRET_KEY):
        yield
    if why == "bucket":
        put_away.rename(bucket)


async def leave_an_ended_run(server: S3Server, folder: Path, token_file: Path, photos: Path) -> None:
    """Have an orchestrator that is gone by now end a run: the next one has to read it in the store to list it."""
    fleet = HeldBack(local_fleet(folder, server, token_file, server.url(folder.name)))
    async with (
        orchestrating(folder, server, token_file, fleet) as door,
        started(door, token_file, "run", photos, *QUICK, "--seed", 1, "-o", folder / "out"),
    ):
        await fleet.asked.wait()
        _, listed = await offshelf(door, token_file, "runs")
        code, shown = await offshelf(door, token_file, "cancel", listed.splitlines()[-1].split()[0])
        assert code == 0, shown


@pytest.mark.parametrize("why", SAID)
async def test_a_store_that_refuses_from_now_on_is_named_wherever_a_user_looks(
    why: str, tmp_path: Path, token_file: Path
) -> None:
    """A run that goes on when keys are changed, or the bucket is deleted, fails with that line; mended, it goes on."""
    said, photos, folder = SAID[why], write_photos(tmp_path / "photos"), tmp_path / "s3"
    run = ("run", photos, *QUICK, "-o", tmp_path / "out")
    (folder / BUCKET).mkdir(parents=True)
    with ExitStack() as serving:
        address = serving.enter_context(serve_folder(folder))
        keys = {"OFFSHELF_S3_ACCESS_KEY": ACCESS_KEY, "OFFSHELF_S3_SECRET_KEY": SECRET_KEY}
        server = S3Server(address, keys, folder)
        await leave_an_ended_run(server, tmp_path, token_file, photos)
        fleet = HeldBack(local_fleet(tmp_path, server, token_file, server.url(tmp_path.name)))
        async with orchestrating(tmp_path, server, token_file, fleet) as door:
            async with started(door, token_file, *run) as user:
                await fleet.asked.wait()
                serving.close()
                with refusing(why, server):
                    fleet.may.set()
                    shown = (await user.communicate())[0].decode()
                    assert user.returncode == 1
                    assert re.fullmatch(f"Error: The run failed: {said}", shown.splitlines()[-1])
                    code, shown = await offshelf(door, token_file, "runs")
                    assert code == 2
                    _, listed, last = shown.splitlines()
                    assert re.search(f" failed .*  {said}$", listed)
                    assert re.fullmatch(f"Error: Runs that have ended cannot be listed. {said}", last)
                    code, shown = await offshelf(door, token_file, "watch", listed.split()[0])
                    assert code == 1
                    assert re.fullmatch(f"Error: The run failed: {said}", shown.splitlines()[-1])
                    code, shown = await offshelf(door, token_file, *run)
                    assert code == 2
                    assert re.fullmatch(f"Error: ({said}|{NO_WORDS})", shown.splitlines()[-1])
            serving.enter_context(serve_folder(folder, address=address))
            code, shown = await offshelf(door, token_file, *run)
            assert code == 0, shown
            code, shown = await offshelf(door, token_file, "runs")
    assert code == 0
    states = [line.split()[1] for line in shown.splitlines()[1:]]
    assert (states[0], states[-1]) == ("succeeded", "cancelled")
