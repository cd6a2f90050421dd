"""Weights from a web that cuts, corrupts, redirects, stalls and lies: what a user gets of each."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import threading
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import Cancelled, DataLoss, NotFound, PermissionDenied, StoreDenied, Unavailable
from offshelf.extraction.spec import WeightsFile
from offshelf.extraction.weights.checking import Entry
from offshelf.extraction.weights.downloads import Pace, Progress, download
from offshelf.extraction.weights.web import Hindered
from tests.integration import weights_server as web
from tests.integration.weights_server import WeightsServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "net.h5"
PATH = f"/weights/{NAME}"
DATA = bytes(range(251)) * 1200
SHA256 = hashlib.sha256(DATA).hexdigest()
FILE = WeightsFile(NAME, f"sha256:{SHA256}", size=len(DATA))
QUICK = Pace(first_seconds=0.001, longest_seconds=0.001, silent_seconds=0.3)
LOOPBACK = ("127.0.0.1",)


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    """A server that has the file."""
    with WeightsServer({PATH: DATA}) as server:
        yield server


def fetch(
    server: WeightsServer,
    folder: Path,
    file: WeightsFile = FILE,
    *,
    pace: Pace = QUICK,
    on_progress: Callable[[Progress], None] = lambda _progress: None,
    stop: threading.Event | None = None,
) -> Entry:
    """Download the file into a folder."""
    return download(file, server.url(PATH), folder, hosts=LOOPBACK, pace=pace, on_progress=on_progress, stop=stop)


def names(folder: Path) -> list[str]:
    """List what is in a folder."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_arrives_under_its_name_alone(server: WeightsServer, tmp_path: Path) -> None:
    """A user's download is the file, and nothing besides; progress was told up to its end."""
    told: list[Progress] = []
    assert fetch(server, tmp_path, on_progress=told.append) == Entry(SHA256, len(DATA), FILE.digest)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert names(tmp_path) == [NAME]
    assert (told[-1].done, told[-1].total) == (len(DATA), len(DATA))
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)


def test_a_file_that_is_there_is_not_asked_for(server: WeightsServer, tmp_path: Path) -> None:
    """Who has the right file already waits for nobody."""
    (tmp_path / NAME).write_bytes(DATA)
    assert fetch(server, tmp_path).sha256 == SHA256
    assert server.requests == []
    assert names(tmp_path) == [NAME]


def test_a_wrong_file_that_is_there_is_replaced(server: WeightsServer, tmp_path: Path) -> None:
    """A file that was damaged on the disk is replaced by the right one."""
    (tmp_path / NAME).write_bytes(DATA[:-1])
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA


@pytest.mark.parametrize("behaviour", [web.cut(100_000), web.stall(100_000)], ids=["cut", "stalled"])
def test_what_was_interrupted_goes_on_where_it_was(
    server: WeightsServer, tmp_path: Path, behaviour: web.Behaviour
) -> None:
    """A line that is cut, or a server that falls silent, costs nothing that has come already."""
    server.script.append(behaviour)
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert [headers.get("range") for _, headers in server.requests] == [None, "bytes=100000-"]
    assert server.requests[1][1]["if-range"] == web.etag(DATA)


def test_the_next_command_goes_on_where_the_last_one_was(server: WeightsServer, tmp_path: Path) -> None:
    """A user who stopped a download, or whose machine was switched off, starts where it was; not from the beginning."""

    def interrupt(progress: Progress) -> None:
        if progress.done >= 65536:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path, on_progress=interrupt)
    kept = (tmp_path / f"{NAME}.part").stat().st_size
    assert kept >= 65536
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert server.requests[-1][1]["range"] == f"bytes={kept}-"
    assert names(tmp_path) == [NAME]


def test_a_server_without_ranges_sends_all_again(server: WeightsServer, tmp_path: Path) -> None:
    """Where a server ignores that only the rest is wanted, the file is right all the same."""
    server.script += [web.cut(100_000), web.without_ranges]
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA


def test_a_file_that_changed_between_attempts_begins_again(server: WeightsServer, tmp_path: Path) -> None:
    """The beginning of an older file is never continued with the end of a newer one."""
    old = b"o" * len(DATA)
    server.files[PATH] = old

    def cut_and_change(exchange: web.Exchange) -> None:
        web.cut(100_000)(exchange)
        server.files[PATH] = DATA

    server.script.append(cut_and_change)
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA


def test_a_file_that_became_shorter_begins_again(server: WeightsServer, tmp_path: Path) -> None:
    """More bytes than the file has are forgotten, and not asked to be continued for ever."""
    (tmp_path / f"{NAME}.part").write_bytes(b"o" * 1000)
    server.script += [web.cut(200_000), web.status(416)]
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert "range" not in server.requests[-1][1]


def test_a_wrong_rest_costs_one_more_download(server: WeightsServer, tmp_path: Path) -> None:
    """A server that sends the end of another file is found out by the digest, and asked for the whole once more."""
    server.script += [web.cut(100_000), web.other_rest]
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert len(server.requests) == 3


def test_a_corrupt_file_is_refused_and_not_kept(server: WeightsServer, tmp_path: Path) -> None:
    """What comes with another digest is refused, with both digests, and nothing of it stays."""
    server.otherwise = web.corrupt
    with pytest.raises(DataLoss) as caught:
        fetch(server, tmp_path)
    assert f"{NAME} is not the file it should be (SHA-256 " in caught.value.message
    assert f"expected {SHA256[:12]}..." in caught.value.message
    assert names(tmp_path) == []


@pytest.mark.parametrize("behaviour", [web.too_much, web.endless], ids=["announced", "endless"])
def test_more_than_the_file_has_is_not_taken(server: WeightsServer, tmp_path: Path, behaviour: web.Behaviour) -> None:
    """A server that sends and sends does not fill the disk."""
    server.otherwise = behaviour
    with pytest.raises(
        DataLoss, match=f"{NAME} is not the file it should be: it has .* {len(DATA)} are expected at most"
    ):
        fetch(server, tmp_path)
    assert names(tmp_path) == []


def test_a_file_that_is_not_there_is_said_at_once(server: WeightsServer, tmp_path: Path) -> None:
    """An address that leads nowhere is asked once, and leaves nothing behind."""
    server.files.clear()
    with pytest.raises(NotFound, match=r"127\.0\.0\.1 has no such file \(status 404\)"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1
    assert names(tmp_path) == []


def test_a_busy_server_is_asked_again(server: WeightsServer, tmp_path: Path) -> None:
    """A server that is overloaded for a moment does not end a user's download."""
    server.script += [web.status(503), web.cut(100_000), web.status(503), web.status(429)]
    told: list[Progress] = []
    fetch(server, tmp_path, on_progress=told.append)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert any("answered with status 503; trying again" in progress.note for progress in told)


def test_a_server_that_never_gets_on_is_given_up(server: WeightsServer, tmp_path: Path) -> None:
    """After some attempts that bring nothing new a user is told why, and keeps what has come."""
    server.script.append(web.cut(100_000))
    server.otherwise = web.status(503)
    with pytest.raises(Unavailable, match=f"{NAME} could not be downloaded: .*status 503. What has come is kept"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1 + QUICK.attempts - 1
    assert (tmp_path / f"{NAME}.part").stat().st_size == 100_000


def test_without_a_network_nobody_waits_for_long(tmp_path: Path) -> None:
    """A host that cannot be reached at all is tried twice, and then the user is told."""
    with WeightsServer() as gone:
        pass
    told: list[Progress] = []
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1 could not be reached"):
        fetch(gone, tmp_path, on_progress=told.append)
    assert len(told) == QUICK.first_attempts - 1


def test_a_server_that_sends_next_to_nothing_is_as_good_as_silent(server: WeightsServer, tmp_path: Path) -> None:
    """A byte now and then keeps no download waiting for days."""
    server.otherwise = web.stall(10)
    with pytest.raises(Unavailable, match="was silent for too long"):
        fetch(server, tmp_path, pace=Pace(attempts=2, first_seconds=0.001, longest_seconds=0.001, silent_seconds=0.05))


@pytest.mark.parametrize("code", [401, 403])
def test_a_refusal_is_final(server: WeightsServer, tmp_path: Path, code: int) -> None:
    """A server that refuses is not asked again and again."""
    server.otherwise = web.status(code)
    with pytest.raises(PermissionDenied, match=rf"refuses \(status {code}\)"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_redirects_among_the_allowed_hosts_are_followed(server: WeightsServer, tmp_path: Path) -> None:
    """A file that has moved to another address of a known host is found there."""
    server.files["/moved"] = DATA
    server.script.append(web.redirect("/moved"))
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert [path for path, _ in server.requests] == [PATH, "/moved"]


def test_a_redirect_without_an_end_is_followed_all_the_same(server: WeightsServer, tmp_path: Path) -> None:
    """What a server says while it sends elsewhere fills no memory."""
    server.files["/moved"] = DATA
    server.script.append(web.endless_redirect("/moved"))
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA


def test_a_redirect_to_another_host_is_not_followed(server: WeightsServer, tmp_path: Path) -> None:
    """A known host cannot send a user's machine to one that is not: it is not asked, and the user is told which."""
    with WeightsServer({PATH: DATA}) as other:
        server.otherwise = web.redirect(f"http://localhost:{other.port}{PATH}")
        with pytest.raises(PermissionDenied, match=r"is fetched from localhost: .*OFFSHELF_FETCH_HOSTS.*redirected to"):
            fetch(server, tmp_path)
        assert other.requests == []


@pytest.mark.parametrize(
    "url", ["http://example.org/net.h5", "file:///etc/passwd", "ftp://127.0.0.1/net.h5", "https://u:p@127.0.0.1/net.h5"]
)
def test_a_redirect_to_what_is_no_safe_address_is_not_followed(server: WeightsServer, tmp_path: Path, url: str) -> None:
    """Nothing is fetched without encryption, from this machine's files, or with somebody's password."""
    server.otherwise = web.redirect(url)
    with pytest.raises((PermissionDenied, Hindered)) as caught:
        fetch(server, tmp_path)
    assert "u:p" not in str(caught.value)
    assert not (tmp_path / NAME).exists()
    assert len(server.requests) == 1


def test_redirects_in_a_circle_end(server: WeightsServer, tmp_path: Path) -> None:
    """Two addresses that send to each other are told as such."""
    server.otherwise = web.redirect(PATH)
    with pytest.raises(Hindered, match="redirects in a circle"):
        fetch(server, tmp_path)


def test_a_download_can_be_stopped(server: WeightsServer, tmp_path: Path) -> None:
    """A run that is cancelled ends its downloads, and keeps what has come."""
    stop = threading.Event()

    def then_stop(progress: Progress) -> None:
        if progress.done:
            stop.set()

    with pytest.raises(Cancelled, match=f"The download of {NAME} was stopped"):
        fetch(server, tmp_path, on_progress=then_stop, stop=stop)
    assert (tmp_path / f"{NAME}.part").stat().st_size > 0


def test_a_folder_that_cannot_be_written_to_is_named(server: WeightsServer, tmp_path: Path) -> None:
    """A read-only folder is the reason that is told, and no server is asked."""
    if os.geteuid() == 0:
        (tmp_path / f"{NAME}.part").symlink_to("/proc/version")  # root may write everywhere, but follows no link
        with pytest.raises(Unavailable, match=f"{NAME} cannot be kept in the folder"):
            fetch(server, tmp_path)
    else:
        tmp_path.chmod(0o500)
        with pytest.raises(StoreDenied, match=f"{NAME} cannot be written into the folder"):
            fetch(server, tmp_path)
        tmp_path.chmod(0o700)
    assert server.requests == []


def _pull(url: str, folder: Path) -> None:
    download(FILE, url, folder, hosts=LOOPBACK)


def test_two_processes_download_a_file_once(server: WeightsServer, tmp_path: Path) -> None:
    """Of several processes that need a file one downloads it, the others wait, and all have it."""
    spawn = multiprocessing.get_context("spawn")
    first_is_waited_for = threading.Event()

    def slowly(exchange: web.Exchange) -> None:
        first_is_waited_for.wait()
        web.properly(exchange)

    server.otherwise = slowly
    processes = [spawn.Process(target=_pull, args=(server.url(PATH), tmp_path)) for _ in range(2)]
    for process in processes:
        process.start()
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        told.append(progress)
        first_is_waited_for.set()

    while not server.requests:
        processes[0].join(0.01)
    # A third one, in this process, sees that another has it; and lets that one go on.
    fetch(server, tmp_path, on_progress=tell)
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / NAME).read_bytes() == DATA
    assert names(tmp_path) == [NAME]
    assert len(server.requests) == 1


def test_a_process_that_was_killed_leaves_what_the_next_one_goes_on_with(server: WeightsServer, tmp_path: Path) -> None:
    """A download whose process was killed holds no lock, and what it had is not lost."""
    server.script.append(web.stall(100_000))
    process = multiprocessing.get_context("spawn").Process(
        target=download,
        args=(FILE, server.url(PATH), tmp_path),
        kwargs={"hosts": LOOPBACK, "pace": Pace(silent_seconds=60.0)},
    )
    process.start()
    part = tmp_path / f"{NAME}.part"
    while not (part.exists() and part.stat().st_size == 100_000):
        process.join(0.01)
        assert process.exitcode is None
    process.kill()
    process.join()
    fetch(server, tmp_path)
    assert (tmp_path / NAME).read_bytes() == DATA
    assert server.requests[-1][1]["range"] == "bytes=100000-"


def test_a_file_whose_authors_gave_md5_alone_is_held_to_what_came_first(server: WeightsServer, tmp_path: Path) -> None:
    """Where authors publish a weak digest, the SHA-256 of the first download holds from then on."""
    file = WeightsFile(NAME, f"md5:{hashlib.md5(DATA, usedforsecurity=False).hexdigest()}", size=len(DATA))
    entry = fetch(server, tmp_path, file)
    assert entry == Entry(SHA256, len(DATA), file.digest)
    (tmp_path / NAME).unlink()
    before = {NAME: Entry("0" * 64, len(DATA), file.digest)}
    with pytest.raises(DataLoss, match=f"SHA-256 {SHA256[:12]}..., expected 000000000000"):
        download(file, server.url(PATH), tmp_path, hosts=LOOPBACK, pace=QUICK, ledger=before)
    assert names(tmp_path) == []
