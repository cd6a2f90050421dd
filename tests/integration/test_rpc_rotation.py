"""Certificates and their authority are exchanged while calls go on, and none fails."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from offshelf import certificates
from offshelf.access import Role
from offshelf.rpc.channel import open_channel, open_sync_channel
from offshelf.rpc.identity import identity_in
from offshelf.settings import Settings
from offshelf.tokens import add_user, write_users
from offshelf.v1 import orchestrator_pb2, orchestrator_pb2_grpc
from tests.integration.stand_ins import StandIn, call, served, service

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

COMPARE = service("StatsService").methods_by_name["Compare"]
FIT = service("TrainerService").methods_by_name["Fit"]
LIST_RUNS = service("OrchestratorService").methods_by_name["ListRuns"]


class Secret:
    """A folder that changes as Kubernetes changes that of a Secret: by a link to a new folder."""

    def __init__(self, folder: Path, source: Path) -> None:
        self.folder = folder
        self._source = source
        self._version = 0
        folder.mkdir()
        self.update()
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (folder / name).symlink_to(f"..data/{name}")

    def update(self) -> None:
        """Take what the source has now."""
        before = self.folder / f"..{self._version}"
        self._version += 1
        shutil.copytree(self._source, self.folder / f"..{self._version}")
        (self.folder / "..data_tmp").symlink_to(f"..{self._version}")
        (self.folder / "..data_tmp").rename(self.folder / "..data")
        shutil.rmtree(before, ignore_errors=True)


class Load:
    """Calls from all sides, as fast as they are answered, until told to stop."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.failed: list[str] = []
        self.stop = threading.Event()

    async def asynchronous(self, name: str, method: Any, open_: Callable[[], Any], *, keep: bool) -> None:
        """Call on one channel all the time, or on a new one each time."""
        self.done[name] = 0
        channel = open_()
        while not self.stop.is_set():
            if not keep:
                await channel.close()
                channel = open_()
            try:
                await call(channel, method)
            except Exception as error:  # noqa: BLE001  whatever fails is what the test is about
                self.failed.append(f"{name}: {error}")
            self.done[name] += 1
        await channel.close()

    def blocking(self, name: str, open_: Callable[[], Any]) -> None:
        """Call on one channel, in this thread."""
        self.done[name] = 0
        with open_() as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            while not self.stop.is_set():
                try:
                    stub.ListRuns(orchestrator_pb2.ListRunsRequest())
                    list(stub.WatchRun(orchestrator_pb2.WatchRunRequest()))
                except Exception as error:  # noqa: BLE001
                    self.failed.append(f"{name}: {error}")
                self.done[name] += 1

    async def until_each_has_done(self, more: int, *, callers: int) -> None:
        """Wait until every caller has made so many calls more, or one has failed."""
        before = self.done.copy()
        while not self.failed:
            done = [number - before.get(name, 0) for name, number in self.done.items()]
            if len(done) == callers and min(done) >= more:
                return
            await asyncio.sleep(0.01)  # a look now and then, at calls that go on by themselves


async def rotate(tmp_path: Path, *, rounds: int, calls: int) -> Load:
    """Exchange everything under load, in the worst order, so many times."""
    made = tmp_path / "certs"
    certificates.issue(made, now=dt.datetime.now(dt.UTC) - (2 * rounds + 1) * certificates.HANDOVER)
    names = ("orchestrator", "stats", "trainer")
    mounted = {name: Secret(tmp_path / name, made / name) for name in names}
    users, token = add_user((), "ada", Role.VIEWER)
    write_users(tmp_path / "users.json", users)
    of_users = Secret(tmp_path / "of-users", made / "orchestrator")
    ours, ca = mounted["orchestrator"].folder, of_users.folder / "ca.crt"

    def settings(name: str) -> Settings:
        return Settings(store=str(tmp_path / "store"), tls=mounted[name].folder, users=tmp_path / "users.json")

    # Time is made to pass by beginning in the past: nothing may be valid from tomorrow on only.
    load, clock = Load(), dt.datetime.now(dt.UTC) - 2 * rounds * certificates.HANDOVER
    async with (
        served(StandIn("StatsService"), settings("stats")) as stats,
        served(StandIn("TrainerService"), settings("trainer")) as trainer,
        served(StandIn("OrchestratorService"), settings("orchestrator")) as door,
    ):
        callers = [
            asyncio.create_task(
                load.asynchronous(
                    f"{method.name}, {'one channel' if keep else 'a channel a call'}",
                    method,
                    lambda server=server, name=name: open_channel(server.address, tls=ours, server_name=name),  # type: ignore[misc]
                    keep=keep,
                )
            )
            for server, name, method in ((stats, "stats", COMPARE), (trainer, "trainer", FIT))
            for keep in (True, False)
        ]
        callers.append(
            asyncio.create_task(
                load.asynchronous("user", LIST_RUNS, lambda: open_channel(door.address, token=token, ca=ca), keep=False)
            )
        )
        thread = threading.Thread(
            target=load.blocking, args=("blocking user", lambda: open_sync_channel(door.address, token=token, ca=ca))
        )
        thread.start()
        try:
            await load.until_each_has_done(1, callers=len(callers) + 1)
            for number in range(rounds):
                # The new authority reaches some before others, whichever: they must believe each other all the time.
                order = [*mounted.values(), of_users]
                order = order[number % len(order) :] + order[: number % len(order)]
                for step, new_authority in enumerate((True, False, False)):
                    # Ten minutes later the old authority is given up; and then it is only renewed.
                    clock += certificates.HANDOVER * min(step, 1)
                    await asyncio.to_thread(certificates.issue, made, new_authority=new_authority, now=clock)
                    for secret in order:
                        await asyncio.to_thread(secret.update)
                        await load.until_each_has_done(calls, callers=len(callers) + 1)
        finally:
            load.stop.set()
            await asyncio.gather(*callers)
            await asyncio.to_thread(thread.join)
        assert identity_in(ours).value().certificate == (made / "orchestrator" / "tls.crt").read_bytes()
    return load


async def test_an_exchange_of_all_certificates_fails_no_call(tmp_path: Path) -> None:
    """An operator renews certificates, and exchanges the authority, while users and services notice nothing."""
    load = await rotate(tmp_path, rounds=1, calls=2)
    assert load.failed == []
    assert min(load.done.values()) >= 24


@pytest.mark.nightly
@pytest.mark.timeout(1800)
async def test_many_exchanges_under_load_fail_no_call(tmp_path: Path) -> None:
    """The same for as long as a year of renewals, in every order of pods, without a failed call or a leak of files."""
    descriptors = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    load = await rotate(tmp_path, rounds=40, calls=15)
    assert load.failed == []
    # Old channels are closed after a while, all at the latest with the last that uses them.
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 20  # noqa: PTH208


async def test_a_channel_that_is_older_than_the_authority_still_connects(tmp_path: Path) -> None:
    """A client that was started with certificates that nobody believes any more connects by those in its files now."""
    folder, token = tmp_path / "certs", "a-token-of-more-than-32-characters"
    certificates.issue(folder)
    (tmp_path / "token").touch(mode=0o600)
    (tmp_path / "token").write_text(token)
    ca = folder / "orchestrator" / "ca.crt"

    def settings(name: str, address: str = ":0") -> Settings:
        port = int(address.rpartition(":")[2])
        store = str(tmp_path / "store")
        return Settings(store=store, tls=folder / name, port=port, token_file=tmp_path / "token")

    async with (
        served(StandIn("TrainerService"), settings("trainer")) as trainer,
        served(StandIn("OrchestratorService"), settings("orchestrator")) as door,
    ):
        kept = open_channel(trainer.address, tls=folder / "orchestrator", server_name="trainer")
        user = open_sync_channel(door.address, token=token, ca=ca)
        list_runs = orchestrator_pb2_grpc.OrchestratorServiceStub(user).ListRuns
        await call(kept, FIT)
        await asyncio.to_thread(list_runs, orchestrator_pb2.ListRunsRequest())
    shutil.rmtree(folder / "ca")
    certificates.issue(folder)
    async with (
        served(StandIn("TrainerService"), settings("trainer", trainer.address)),
        served(StandIn("OrchestratorService"), settings("orchestrator", door.address)),
    ):
        await call(kept, FIT)
        await asyncio.to_thread(list_runs, orchestrator_pb2.ListRunsRequest())
    await kept.close()
    user.close()


async def test_files_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    """While somebody copies new files over old ones, one after the other, the old ones stay in force."""
    folder = tmp_path / "certs"
    certificates.issue(folder)
    shutil.copytree(folder, tmp_path / "renewed")
    certificates.issue(tmp_path / "renewed")

    async def one_call(address: str) -> None:
        async with open_channel(address, tls=folder / "orchestrator", server_name="stats") as channel:
            await call(channel, COMPARE)

    settings = Settings(store=str(tmp_path / "store"), tls=folder / "stats")
    async with served(StandIn("StatsService"), settings) as server:
        await one_call(server.address)
        before = identity_in(folder / "stats").value()
        for side in ("stats", "orchestrator"):
            for name in ("tls.key", "tls.crt"):
                await one_call(server.address)
                shutil.copy(tmp_path / "renewed" / side / name, folder / side / name)
            await one_call(server.address)
        assert identity_in(folder / "stats").value().certificate != before.certificate


EXPIRY = "offshelf_certificate_expiry_timestamp_seconds"


async def test_when_a_certificate_ends_is_told_also_of_the_next_one(tmp_path: Path) -> None:
    """Prometheus can warn of a certificate that nobody renews, until somebody does; nothing needs a restart."""
    folder, registry = tmp_path / "certs", CollectorRegistry()
    settings = Settings(store=str(tmp_path / "store"), tls=folder / "stats")
    soon = certificates.issue(folder, days=3)
    async with served(StandIn("StatsService"), settings, registry):
        assert registry.get_sample_value(EXPIRY) == soon.ends.timestamp()
        later = certificates.issue(folder, days=300)
        assert registry.get_sample_value(EXPIRY) == later.ends.timestamp()
        (folder / "stats" / "tls.key").write_text("half a k")
        assert registry.get_sample_value(EXPIRY) == later.ends.timestamp()


async def test_without_a_certificate_there_is_no_end_of_one(tmp_path: Path, token_file: Path) -> None:
    """On one machine and behind a mesh, no alert speaks of certificates."""
    registry = CollectorRegistry()
    async with served(
        StandIn("StatsService"), Settings(store=str(tmp_path / "store"), token_file=token_file), registry
    ):
        assert registry.get_sample_value(EXPIRY) is None
