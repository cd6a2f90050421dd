from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from offshelf.errors import Cancelled, Internal, InvalidInput, ResourceExhausted, Unavailable
from offshelf.workers import ONE_THREAD, WorkerCrashed, WorkerPool, WorkerTimeout
from offshelf.workers.pulse import Pulse
from tests.unit.worker_handlers import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HANDLER = "tests.unit.worker_handlers:make"
LONG = 60.0


def pool_of(size: int, **setup: Any) -> WorkerPool:
    """Make a pool whose workers do what a call's header says."""
    return WorkerPool(size, HANDLER, setup=setup, environment={**ONE_THREAD, **ENVIRONMENT})


@pytest.fixture
def pool() -> Iterator[WorkerPool]:
    """Give a pool of two workers."""
    with pool_of(2, colour="red") as pool:
        yield pool


def worker_processes() -> set[int]:
    """List the workers that this process has."""
    children = psutil.Process().children()
    return {child.pid for child in children if "offshelf.workers.child" in child.cmdline()}


def wait_for_file(path: Path) -> None:
    """Wait until a worker has said that it is at work."""
    ticker = threading.Event()
    while not path.exists():
        ticker.wait(0.01)


def test_bytes_go_there_and_back(pool: WorkerPool) -> None:
    """A worker gets the setup, the header and the bytes, and its answer comes back whole, however large."""
    answer, content = pool.call({"do": "reverse"}, b"ab" * 3_000_000)
    assert answer["setup"] == {"colour": "red"}
    assert answer["pid"] != os.getpid()
    assert content == b"ba" * 3_000_000


def test_starting_starts_all(pool: WorkerPool) -> None:
    """After a start every process is ready, and calls at the same time are answered by different ones."""
    pool.start()
    children = worker_processes()
    assert len(children) == 2
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: pool.call({"do": "reverse"}, b"x" * 100_000)[0]["pid"], range(50)))
    assert set(answers) <= children


def test_numeric_libraries_have_one_thread(pool: WorkerPool) -> None:
    """A worker's environment is set before its libraries are imported, so that they do not fight for the cores."""
    answer, _ = pool.call({"do": "environment", "names": list(ONE_THREAD)})
    assert answer == dict(ONE_THREAD)


def test_a_crash_is_told_and_mended(pool: WorkerPool) -> None:
    """A worker that crashes costs its own call only: the next one is answered."""
    with pytest.raises(WorkerCrashed, match="status -11"):
        pool.call({"do": "crash"})
    assert pool.call({"do": "reverse"}, b"abc")[1] == b"cba"


def test_a_hanging_worker_is_killed(pool: WorkerPool, tmp_path: Path) -> None:
    """A worker that gives no answer in time is killed, and the next call is answered."""
    with pytest.raises(WorkerTimeout):
        pool.call({"do": "say and hang", "file": str(tmp_path / "here")}, timeout=0.5)
    assert worker_processes() == set()
    assert pool.call({"do": "reverse"}, b"abc")[1] == b"cba"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what processor time a process uses")
def test_a_stuck_worker_is_killed_and_a_busy_one_is_not(tmp_path: Path) -> None:
    """Work may take as long as it wants while it computes; a worker that does nothing is killed, and replaced."""
    with WorkerPool(1, HANDLER, environment=ENVIRONMENT, stuck_seconds=1.0) as pool:
        assert pool.call({"do": "compute", "seconds": 3}) == ({}, bytearray())
        with pytest.raises(WorkerTimeout, match="stuck"):
            pool.call({"do": "say and hang", "file": str(tmp_path / "here")})
        assert worker_processes() == set()
        assert pool.call({"do": "reverse"}, b"abc")[1] == b"cba"


def looks(*seen: tuple[float, int | None]) -> list[bool]:
    """Look at a process at these times, when it has used so much; tells each time whether it is stuck after 10 s."""
    at = iter([(0.0, seen[0][1]), *seen])
    now, used = next(at)
    pulse = Pulse(1, 10.0, used=lambda _pid: used, clock=lambda: now)
    found = []
    for now, used in at:  # noqa: B007  (the pulse looks at them)
        found.append(pulse.is_missed())
    return found


def test_a_pulse_is_missed_after_a_while_without_any_use_of_the_processor() -> None:
    """A process that does a little now and then, on a machine with too much to do, is not stuck."""
    assert looks((4, 7), (8, 7), (9, 8), (13, 8), (17, 8), (19, 8)) == [False] * 5 + [True]


def test_time_in_which_nothing_ran_does_not_count() -> None:
    """A computer that slept for an hour does not find all work stuck when it wakes up."""
    assert looks((4, 7), (3600, 7), (3601, 7), (3602, 7)) == [False, False, True, True]
    assert looks((1, 7), (3600, 7), (3601, 8)) == [False, False, False]


def test_nothing_is_stuck_where_nobody_knows() -> None:
    """Systems that do not tell what a process does leave work alone."""
    assert looks((5, None), (10, None), (15, None)) == [False, False, False]


def test_stopping_kills_what_does_not_listen(pool: WorkerPool, tmp_path: Path) -> None:
    """Work can be stopped in the middle, whatever library it is in."""
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        header = {"do": "say and hold the interpreter", "file": str(tmp_path / "here")}
        call = threads.submit(pool.call, header, stop=stop)
        wait_for_file(tmp_path / "here")
        stop.set()
        with pytest.raises(Cancelled):
            call.result(LONG)
    assert worker_processes() == set()


def test_a_call_that_waits_for_a_worker_can_be_stopped(tmp_path: Path) -> None:
    """A call that has not got a worker yet ends when it is stopped."""
    stop = threading.Event()
    with ThreadPoolExecutor(2) as threads, pool_of(1) as pool:
        busy = threads.submit(pool.call, {"do": "say and hang", "file": str(tmp_path / "here")})
        wait_for_file(tmp_path / "here")
        waiting = threads.submit(pool.call, {"do": "reverse"}, stop=stop)
        stop.set()
        with pytest.raises(Cancelled):
            waiting.result(LONG)
        pool.close()
        with pytest.raises(Cancelled):
            busy.result(LONG)


def test_errors_keep_their_class_and_message(pool: WorkerPool) -> None:
    """An error that a worker raises for a person reaches that person, as its own class or the one it descends from."""
    with pytest.raises(InvalidInput, match="unknown 'dance'"):
        pool.call({"do": "dance"})
    with pytest.raises(ResourceExhausted, match="make room"):
        pool.call({"do": "ask for too much"})


@pytest.mark.parametrize("what", ["fail", "return nonsense"])
def test_defects_stay_in_the_log(pool: WorkerPool, what: str, caplog: pytest.LogCaptureFixture) -> None:
    """A defect in a worker is an internal error without details, its traceback is logged, and the worker lives on."""
    before = pool.call({"do": "reverse"})[0]["pid"]
    with pytest.raises(Internal) as caught:
        pool.call({"do": what})
    assert "Error" not in caught.value.message
    assert "Traceback" in caplog.records[-1].worker_trace  # type: ignore[attr-defined]
    assert pool.call({"do": "reverse"})[0]["pid"] == before


def test_a_factory_that_refuses_says_why() -> None:
    """A pool whose workers cannot be set up says so at its start, in the words of whoever refused."""
    with pool_of(2, refuse=True) as pool, pytest.raises(InvalidInput, match="give another"):
        pool.start()


def test_a_worker_that_cannot_start_blames_no_work() -> None:
    """A process that dies while starting is no crash of the work it was started for."""
    with pool_of(1, crash=True) as pool, pytest.raises(Unavailable, match="could not be started"):
        pool.call({"do": "reverse"})


def test_closing_leaves_no_process(tmp_path: Path) -> None:
    """After closing no process is left, busy or idle, waiting calls end, and there are no further ones."""
    with ThreadPoolExecutor(4) as threads, pool_of(2) as pool:
        pool.start()
        calls = [
            threads.submit(pool.call, {"do": "say and hang", "file": str(tmp_path / str(number))})
            for number in range(4)
        ]
        ticker = threading.Event()
        while len(list(tmp_path.iterdir())) < 2:
            ticker.wait(0.01)
        pool.close()
        for call in calls:
            with pytest.raises(Cancelled):
                call.result(LONG)
        with pytest.raises(Cancelled):
            pool.call({"do": "reverse"})
    assert worker_processes() == set()


def test_signals_from_the_terminal_are_the_parents(pool: WorkerPool) -> None:
    """Ctrl-C does not end a worker behind its parent's back; SIGTERM does end one."""
    process = psutil.Process(pool.call({"do": "reverse"})[0]["pid"])
    process.send_signal(signal.SIGINT)
    assert pool.call({"do": "reverse"})[0]["pid"] == process.pid
    assert os.getpgid(process.pid) != os.getpgid(0)
    process.send_signal(signal.SIGTERM)
    with pytest.raises(WorkerCrashed):
        pool.call({"do": "reverse"})


def test_prints_of_libraries_stay_out_of_stdout(pool: WorkerPool, capfd: pytest.CaptureFixture[str]) -> None:
    """What a library prints in a worker does not get between the lines that programs read from a service."""
    pool.call({"do": "print"})
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "a library that prints" in captured.err


@pytest.fixture
def orphan_maker(tmp_path: Path) -> Iterator[Callable[[str], psutil.Process]]:
    """Start a parent whose worker is at work, kill the parent, and give the worker."""
    program = """
        import sys, threading
        from offshelf.workers import WorkerPool
        from tests.unit.worker_handlers import ENVIRONMENT
        print("main is imported", flush=True)
        if __name__ == "__main__":
            pool = WorkerPool(1, "tests.unit.worker_handlers:make", environment=ENVIRONMENT)
            print(pool.call({"do": "reverse"})[0]["pid"], flush=True)
            pool.call({"do": sys.argv[1], "file": sys.argv[2]})
    """
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(program))
    workers: list[psutil.Process] = []

    def make(work: str) -> psutil.Process:
        file = tmp_path / "at-work"
        with subprocess.Popen(
            [sys.executable, str(script), work, str(file)],
            env={**os.environ, **ENVIRONMENT},
            stdout=subprocess.PIPE,
            text=True,
        ) as parent:
            assert parent.stdout is not None
            lines = [parent.stdout.readline().strip(), parent.stdout.readline().strip()]
            assert lines[0] == "main is imported"  # and not once more by the worker
            workers.append(psutil.Process(int(lines[1])))
            wait_for_file(file)
            parent.kill()
        return workers[-1]

    yield make
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            worker.kill()


@pytest.mark.parametrize("work", ["say and hang", "say and hold the interpreter"])
def test_a_killed_parent_leaves_no_worker(orphan_maker: Callable[[str], psutil.Process], work: str) -> None:
    """A service that is killed leaves no process behind, even one that is deep inside a C library."""
    if work == "say and hold the interpreter" and sys.platform != "linux":
        pytest.skip("the kernel of this platform cannot kill a process when a pipe closes")
    orphan_maker(work).wait(LONG)
