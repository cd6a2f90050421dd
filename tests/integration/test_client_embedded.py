"""Services on this machine: attached to, started, and left. A small process pretends to be the orchestrator."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from offshelf import Conflict, InvalidInput, NotFound, Unavailable, embedded
from offshelf.errors import Internal, StoreFull, StoreUnavailable
from offshelf.store.ownership import StoreInUse, clients_present, is_owned, read_server

ORCHESTRATOR = """
import json, os, sys, time
from pathlib import Path
from offshelf.errors import OffshelfError
from offshelf.store.ownership import StoreOwnership, claim_no_clients
root = Path(os.environ["OFFSHELF_STORE"])
assert "OFFSHELF_TOKEN" not in os.environ
try:
    ownership = StoreOwnership.acquire(root)
except OffshelfError as error:
    print(json.dumps({"ready": False, "error": error.message, "kind": type(error).__name__}))
    sys.exit(2)
ownership.publish("127.0.0.1:1")
print(json.dumps({"ready": True, "address": "127.0.0.1:1"}), flush=True)
if os.environ["OFFSHELF_EMBEDDED"] == "up":
    sys.stdin.read()
else:
    while claim_no_clients(root) is None:
        time.sleep(0.02)
ownership.release()
"""
COMMAND = (sys.executable, "-c", ORCHESTRATOR)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that does not exist yet."""
    monkeypatch.setenv("OFFSHELF_TOKEN", "for another server")
    return tmp_path / "store"


def test_services_live_as_long_as_the_client_that_started_them(root: Path) -> None:
    """The first client starts the services; when it has closed, they are gone."""
    endpoint = embedded.attach_or_start(root, command=COMMAND)
    process = endpoint.started
    assert process is not None
    server = read_server(root)
    assert server is not None
    assert (endpoint.address, server.pid) == ("127.0.0.1:1", process.pid)
    assert endpoint.token == server.token.read_text().strip()
    assert endpoint.token not in repr(endpoint)
    endpoint.release()
    assert process.returncode == 0
    assert not is_owned(root)
    endpoint.release()


def test_services_outlive_the_client_that_started_them_if_others_need_them(root: Path) -> None:
    """A second client attaches, and keeps the services when the first leaves; they end with it."""
    first = embedded.attach_or_start(root, command=COMMAND)
    process = first.started
    assert process is not None
    second = embedded.attach_or_start(root, command=COMMAND)
    assert second.started is None
    assert second.token == first.token
    first.release()
    assert process.poll() is None
    assert is_owned(root)
    second.release()
    for thread in threading.enumerate():
        if thread.name == "offshelf-reaper":
            thread.join(30)
    assert process.returncode == 0


def test_clients_that_start_at_once_share_one_server(root: Path) -> None:
    """However many clients begin together, all end up with the same server."""
    with ThreadPoolExecutor(4) as threads:
        endpoints = list(threads.map(lambda _: embedded.attach_or_start(root, command=COMMAND), range(4)))
    try:
        assert len({endpoint.token for endpoint in endpoints}) == 1
        assert sum(endpoint.started is not None for endpoint in endpoints) == 1
    finally:
        for endpoint in sorted(endpoints, key=lambda endpoint: endpoint.started is not None):
            endpoint.release()
    assert not is_owned(root)


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        ('{"ready": false, "error": "It is full.", "kind": "StoreFull"}', StoreFull, "It is full."),
        ('{"ready": false, "error": "Odd.", "kind": "NoSuchError"}', Internal, "Odd."),
        ("Segmentation fault", Unavailable, "orchestrator.log"),
        ("", Unavailable, "ended while starting"),
        ('{"ready": true, "address": "127.0.0.1:1"}', Unavailable, "ended while starting"),
    ],
)
def test_services_that_do_not_start_say_why(root: Path, line: str, error: type[Exception], said: str) -> None:
    """What the services say is raised; where they say nothing, the error names their log. No lease stays."""
    with pytest.raises(error, match=said):
        embedded.attach_or_start(root, command=(sys.executable, "-c", f"print({line!r})" if line else ""))
    assert not is_owned(root)
    assert not clients_present(root)


def test_a_folder_that_is_no_store_is_left_alone(tmp_path: Path) -> None:
    """A store in a folder with other things is refused before anything is written or started."""
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(Conflict, match="not empty"):
        embedded.attach_or_start(tmp_path, command=("false",))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_server_in_front_holds_the_store(root: Path) -> None:
    """`offshelf up` gets the store for itself: a second one is refused with the address, a client attaches."""
    process, address = embedded.start_in_front(root, port=0, command=COMMAND)
    try:
        with pytest.raises(StoreInUse, match=address):
            embedded.start_in_front(root, port=0, command=COMMAND)
        endpoint = embedded.attach_or_start(root, command=COMMAND)
        assert (endpoint.address, endpoint.started) == (address, None)
        endpoint.release()
        assert process.poll() is None
    finally:
        embedded.end(process)
    assert process.poll() is not None


def test_missing_services_are_told_with_the_way_to_install_them() -> None:
    """Without the extra, the error is one line with the command to install it."""
    embedded.check_installed()
    with pytest.raises(NotFound, match=r"pip install 'offshelf\[embedded\]'"):
        embedded.check_installed(lambda module: None if module == "openvino" else module)


def test_a_bucket_cannot_be_served_from_here() -> None:
    """A store that is no directory is refused without repeating what may be secret in it."""
    with pytest.raises(InvalidInput, match=r"not s3://bucket\.") as caught:
        embedded.store_root("s3://bucket?endpoint=http://key:secret@host")
    assert "secret" not in str(caught.value)
    assert embedded.store_root("~/store") == Path.home() / "store"
    assert embedded.store_root("~nobody-of-this-name/store") == Path.cwd() / "~nobody-of-this-name" / "store"


def test_the_environment_of_a_server_is_its_own(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What users set for clients does not reach a server; what they set for servers does."""
    cluster = {"OFFSHELF_FLEET", "OFFSHELF_PLAINTEXT", "OFFSHELF_TLS", "OFFSHELF_USERS"}
    for name in {"OFFSHELF_TOKEN_FILE", *cluster}:
        monkeypatch.setenv(name, "/elsewhere")
    monkeypatch.setenv("OFFSHELF_WEIGHTS", "/weights")
    environment = embedded.server_environment(root, stay="attached")
    assert environment["OFFSHELF_STORE"] == str(root)
    assert environment["OFFSHELF_WEIGHTS"] == "/weights"
    assert "OFFSHELF_TOKEN" not in environment
    assert "OFFSHELF_TOKEN_FILE" not in environment
    assert not cluster & environment.keys()


def test_who_starts_a_server_for_others_says_what_they_may_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`offshelf up` keeps to the data roots; services that a command starts for itself may read what it may."""
    monkeypatch.setenv("OFFSHELF_DATA_ROOTS", "/data")
    assert embedded.server_environment(root, stay="up")["OFFSHELF_DATA_ROOTS"] == "/data"
    assert "OFFSHELF_DATA_ROOTS" not in embedded.server_environment(root, stay="attached")


def test_a_log_that_cannot_be_written_is_the_store_refusing(root: Path) -> None:
    """`offshelf up` says of a store that refuses what `offshelf run` says, with the fix."""
    log = embedded.log_file(root)
    log.mkdir(parents=True)
    with pytest.raises(StoreUnavailable, match="store at"):
        embedded.open_log(root)
