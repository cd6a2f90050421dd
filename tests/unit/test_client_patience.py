"""How often, and how long apart, a client tries again."""

from __future__ import annotations

import pytest

from offshelf.client.absence import Absence
from offshelf.client.patience import PASSING, Attempts, Pauses
from offshelf.errors import (
    InvalidInput,
    OffshelfError,
    QuotaExceeded,
    ResourceExhausted,
    StoreFull,
    Unavailable,
)

THREE = Pauses(attempts=3, first=1.0, longest=2.0, attempts_if_busy=2)
AWAY = Unavailable("away")
BUSY = ResourceExhausted("busy")


class Server:
    """Fails as a test wants, then answers."""

    def __init__(self, *failures: OffshelfError) -> None:
        self._failures = list(failures)
        self.asked = 0
        self.waits: list[float] = []

    def ask(self) -> str:
        """Answer, or fail."""
        self.asked += 1
        if self._failures:
            raise self._failures.pop(0)
        return "answer"

    def wait(self, pause: float, error: OffshelfError) -> None:
        """Take note of a pause."""
        assert error in {AWAY, BUSY}
        self.waits.append(pause)


def test_what_passes_is_waited_for() -> None:
    """A server that is away and then busy is asked again, after pauses that grow to a limit and are drawn by lot."""
    server = Server(AWAY, AWAY, AWAY, BUSY, BUSY, BUSY, BUSY, BUSY)
    assert Attempts(THREE, server.wait).insist(server.ask, on=PASSING) == "answer"
    assert len(server.waits) == 8
    assert all(pause <= limit for pause, limit in zip(server.waits, (1, 2, 2, 1, 2, 2, 2, 2), strict=True))
    assert len(set(server.waits)) == 8


@pytest.mark.parametrize(("error", "asked"), [(AWAY, 4), (BUSY, 6)])
def test_patience_ends(error: OffshelfError, asked: int) -> None:
    """A server that stays away ends it with that error; one that is only busy is waited for longer."""
    server = Server(*([error] * 100))
    with pytest.raises(type(error)):
        Attempts(THREE, server.wait).insist(server.ask, on=PASSING)
    assert server.asked == asked


@pytest.mark.parametrize("error", [QuotaExceeded("quota"), StoreFull("full"), InvalidInput("wrong")])
def test_what_does_not_pass_is_told_at_once(error: OffshelfError) -> None:
    """Nobody waits for a quota that is used up, for a full store or for a request that is wrong."""
    server = Server(error)
    with pytest.raises(type(error)):
        Attempts(THREE, server.wait).insist(server.ask, on=PASSING)
    assert (server.asked, server.waits) == (1, [])


def test_who_gets_on_has_new_patience() -> None:
    """Cuts far apart do not add up to the end of an upload."""
    server = Server()
    attempts = Attempts(THREE, server.wait)
    for _ in range(5):
        for _ in range(3):
            attempts.wait_after(AWAY)
        attempts.succeed()
    assert len(server.waits) == 15


def test_only_a_server_that_was_there_is_waited_for() -> None:
    """A wrong address fails at once; a server that was spoken to is asked again."""
    absence = Absence(Pauses(attempts=3, first=0.0, longest=0.0))
    nobody = Server(AWAY)
    with pytest.raises(Unavailable):
        absence.outlast(nobody.ask)
    assert nobody.asked == 1
    assert absence.outlast(Server().ask) == "answer"
    restarted = Server(AWAY, AWAY, AWAY)
    assert absence.outlast(restarted.ask) == "answer"
    assert restarted.asked == 4
