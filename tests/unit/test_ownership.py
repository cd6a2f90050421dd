from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import DataLoss
from offshelf.store import open_store
from offshelf.store.ownership import (
    ClientLease,
    ServerInfo,
    StoreInUse,
    StoreOwnership,
    claim_no_clients,
    clients_present,
    is_owned,
    read_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER = """
import sys
from pathlib import Path
from offshelf.store.ownership import StoreOwnership
ownership = StoreOwnership.acquire(Path(sys.argv[1]))
if len(sys.argv) > 2:
    ownership.publish(sys.argv[2])
print(ownership.epoch, flush=True)
sys.stdin.read()
"""
PARENT = SERVER.replace(
    "print(",
    """
import subprocess
program = "import sys; print(1, flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", program], close_fds=False, stdout=subprocess.PIPE)
child.stdout.readline()
print(""",
)
CLIENT = """
import sys
from pathlib import Path
from offshelf.store.ownership import ClientLease
print("asking", flush=True)
lease = ClientLease.take(Path(sys.argv[1]))
print("server gone" if Path(sys.argv[2]).exists() else "server there", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a program that ends when its input does, and go on when it has said its first line."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    """Wait for the next line that a program says."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_second_server_is_refused_by_name(tmp_path: Path) -> None:
    """A user who starts a second server is told the address of the first, its process and what to do."""
    with running(SERVER, tmp_path, "127.0.0.1:4242") as server:
        assert line(server) == "1"
        with pytest.raises(StoreInUse) as caught:
            StoreOwnership.acquire(tmp_path)
        assert caught.value.message == (
            f"The store at {tmp_path} is in use by the server at 127.0.0.1:4242 (process {server.pid}). "
            "Use --server 127.0.0.1:4242 or stop that server."
        )
        assert caught.value.exit_code == 2
        token = tmp_path / ".embedded" / "token"
        assert read_server(tmp_path) == ServerInfo("127.0.0.1:4242", server.pid, token)


def test_a_server_that_is_starting_is_no_address_yet(tmp_path: Path) -> None:
    """A user who comes while a server starts is told to try again, not to use an address that is not there."""
    with running(SERVER, tmp_path) as server:
        assert line(server) == "1"
        assert read_server(tmp_path) is None
        assert is_owned(tmp_path)
        with pytest.raises(StoreInUse, match="starting or stopping"):
            StoreOwnership.acquire(tmp_path)


def test_a_killed_server_leaves_the_store_free(tmp_path: Path) -> None:
    """A user whose server was killed starts the next one at once, without cleaning up."""
    with running(SERVER, tmp_path, "127.0.0.1:4242") as server:
        assert line(server) == "1"
        server.kill()
        server.wait()
        assert read_server(tmp_path) is None
        assert not is_owned(tmp_path)
    with StoreOwnership.acquire(tmp_path) as ownership:
        assert ownership.epoch == 2
        assert read_server(tmp_path) is None, "the address of the killed one is not taken for ours"
        ownership.publish("127.0.0.1:1")
        found = read_server(tmp_path)
        assert found is not None
        assert found.address == "127.0.0.1:1"


def test_children_of_a_killed_server_do_not_keep_the_store(tmp_path: Path) -> None:
    """A user whose server was killed is not locked out by a process that it had started."""
    with running(PARENT, tmp_path, "127.0.0.1:4242") as server:
        assert line(server) == "1"
        server.kill()
        server.wait()
        # The child still runs: it ends with our end of the pipe that it inherited.
        with StoreOwnership.acquire(tmp_path) as ownership:
            assert ownership.epoch == 2


def test_a_released_store_is_free(tmp_path: Path) -> None:
    """A user who stops a server finds none, and each server of a store has an epoch of its own."""
    for epoch in range(1, 4):
        ownership = StoreOwnership.acquire(tmp_path)
        assert ownership.epoch == epoch
        ownership.publish(f"127.0.0.1:{epoch}")
        assert is_owned(tmp_path)
        ownership.release()
        ownership.release()
        assert read_server(tmp_path) is None
        assert not is_owned(tmp_path)


def test_only_one_of_many_gets_the_store(tmp_path: Path) -> None:
    """A user who starts many servers at once has one."""

    def attempt(_: int) -> StoreOwnership | None:
        try:
            return StoreOwnership.acquire(tmp_path)
        except StoreInUse:
            return None

    with ThreadPoolExecutor(8) as pool:
        got = [ownership for ownership in pool.map(attempt, range(24)) if ownership is not None]
    assert [ownership.epoch for ownership in got] == [1]
    got[0].release()


def test_looking_never_refuses_a_start(tmp_path: Path) -> None:
    """A user's server starts although clients look for it at that very moment."""
    StoreOwnership.acquire(tmp_path).release()

    def look(_: int) -> None:
        for _ in range(100):
            read_server(tmp_path)
            is_owned(tmp_path)

    with ThreadPoolExecutor(3) as pool:
        looking = pool.map(look, range(3))
        for _ in range(30):
            StoreOwnership.acquire(tmp_path).release()
        list(looking)


def test_nobody_ever_ran_there(tmp_path: Path) -> None:
    """A user who looks for a server where none ever was finds none, and no file is made."""
    assert read_server(tmp_path) is None
    assert read_server(tmp_path / "missing") is None
    assert not is_owned(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_each_server_has_a_token_of_its_own(tmp_path: Path) -> None:
    """A user's token is random, new for each server, and readable by no other account."""
    tokens = set()
    for _ in range(3):
        with StoreOwnership.acquire(tmp_path) as ownership:
            assert ownership.token_file.stat().st_mode & 0o777 == 0o600
            assert ownership.logs.is_dir()
            assert ownership.logs.parent.stat().st_mode & 0o777 == 0o700
            tokens.add(ownership.token_file.read_text())
    assert len(tokens) == 3
    assert all(len(token) >= 43 for token in tokens)


def test_a_damaged_epoch_is_reported(tmp_path: Path) -> None:
    """A user whose epoch is damaged is told so, since a number used twice would mix up the runs; the store is free."""
    StoreOwnership.acquire(tmp_path).release()
    (tmp_path / ".embedded" / "epoch").write_text("?")
    with pytest.raises(DataLoss, match="epoch"):
        StoreOwnership.acquire(tmp_path)
    assert not is_owned(tmp_path)


def test_clients_count_until_they_end(tmp_path: Path) -> None:
    """A user's server lives as long as any client does, and no longer, however that client ends."""
    with StoreOwnership.acquire(tmp_path):
        assert not clients_present(tmp_path)
        first = ClientLease.take(tmp_path)
        with running(CLIENT, tmp_path, tmp_path / "gone") as second:
            assert line(second) == "asking"
            assert line(second) == "server there"
            first.release()
            first.release()
            assert clients_present(tmp_path)
            assert claim_no_clients(tmp_path) is None
            second.kill()
            second.wait()
            assert not clients_present(tmp_path)


def test_a_client_waits_for_a_server_that_is_going_away(tmp_path: Path) -> None:
    """A user who comes while a server ends gets a new one, not the one that is going away."""
    gone = tmp_path / "gone"
    ownership = StoreOwnership.acquire(tmp_path)
    claim = claim_no_clients(tmp_path)
    assert claim is not None
    with running(CLIENT, tmp_path, gone) as client:
        assert line(client) == "asking"
        ownership.release()
        gone.touch()
        claim.release()
        claim.release()
        assert line(client) == "server gone"
        assert clients_present(tmp_path)


def test_the_files_of_a_server_are_no_objects(tmp_path: Path) -> None:
    """A user's store holds results only, wherever its server keeps its lock and its token."""
    with ClientLease.take(tmp_path / "store"), StoreOwnership.acquire(tmp_path / "store") as ownership:
        ownership.publish("127.0.0.1:1")
        store = open_store(str(tmp_path / "store"))
        assert [info.key for info in store.list("")] == ["store.json"]
