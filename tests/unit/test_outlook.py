"""When a trouble of pods is told, and when a role is given up because of it."""

from __future__ import annotations

from typing import Any

import pytest

from offshelf.errors import StoreDenied
from offshelf.services.orchestrator.fleet.outlook import Outlook, Patience
from offshelf.services.orchestrator.fleet.troubles import Kind, Trouble, trouble_of_pod
from tests.unit.fake_cluster import container, pod

IMAGE = Trouble(Kind.IMAGE, "no image")
ROOM = Trouble(Kind.ROOM, "no room")


def look(outlook: Outlook, now: float, trouble: Trouble | None = None, **others: Any) -> Outlook:
    """Look at a role that has no replica."""
    outlook.look(now, **{"ready": 0, "wanted": 1, "trouble": trouble, "blocked": False, "role": "trainer", **others})
    return outlook


def test_a_short_trouble_is_not_told() -> None:
    """A pod that is pending for a moment worries nobody."""
    outlook = look(Outlook(Patience()), 0, ROOM)
    assert outlook.line == ""
    assert look(outlook, 6, ROOM).line == "no room"
    assert look(outlook, 7, None, ready=1).line == ""


def test_a_crash_loop_is_one_trouble() -> None:
    """A container that runs for a moment between two crashes does not start the count anew."""
    outlook = look(Outlook(Patience()), 0, IMAGE)
    look(outlook, 20, IMAGE)
    look(outlook, 25, None)
    assert look(outlook, 31, IMAGE).refusal is not None


def test_the_reason_is_kept_while_nothing_is_tried() -> None:
    """Between two tries to pull an image the message still says why the last one failed."""
    outlook = look(Outlook(Patience()), 0, IMAGE)
    backing_off = container(pod("trainer"), waiting={"reason": "ImagePullBackOff", "message": "Back-off"})
    assert look(outlook, 6, trouble_of_pod(backing_off, "trainer")).line == "no image"


def test_a_role_that_never_becomes_ready_is_given_up() -> None:
    """A run does not wait for ever for a pod that does not come up and does not say why."""
    outlook = look(Outlook(Patience()), 0)
    assert look(outlook, 179).refusal is None
    refusal = look(outlook, 181).refusal
    assert refusal is not None
    assert refusal.message == "trainer was not ready after 181 s; kubectl logs deployment/trainer says why."


def test_waiting_for_room_that_our_own_work_has_is_not_counted() -> None:
    """In a small cluster an extractor waits for its turn, instead of being left out after three minutes."""
    outlook = look(Outlook(Patience()), 0, ROOM, blocked=True)
    for now in range(0, 1700, 100):
        assert look(outlook, now, ROOM, blocked=True).refusal is None
    assert look(outlook, 1801, ROOM, blocked=True).refusal is not None


def test_a_role_with_a_replica_is_never_given_up() -> None:
    """As long as one replica is ready, the run goes on."""
    outlook = look(Outlook(Patience()), 0, IMAGE, ready=1, wanted=2)
    assert look(outlook, 1000, IMAGE, ready=1, wanted=2).refusal is None
    assert look(outlook, 1001, IMAGE, ready=1, wanted=2).line == "no image Going on with 1 of 2 replicas."


def test_the_last_good_replica_may_be_replaced() -> None:
    """A pod that is evicted beside one that cannot start is not the end of its role: the next one is on its way."""
    outlook = look(Outlook(Patience()), 0, IMAGE, ready=1, wanted=2)
    for now in range(100, 130, 5):
        assert look(outlook, now, IMAGE, wanted=2).refusal is None
    assert look(outlook, 130, IMAGE, wanted=2).refusal is not None


@pytest.mark.parametrize(("was_ready", "given_up"), [(False, 30), (True, 180)])
def test_a_container_that_was_killed_at_work_gets_time_to_be_started_again(was_ready: bool, given_up: int) -> None:  # noqa: FBT001
    """A unit that ends its process is found out, though the cluster takes longer each time to start it again."""
    killed = Trouble(Kind.CRASH, "trainer: ran out of memory")
    outlook = look(Outlook(Patience()), 0, ready=int(was_ready))
    assert look(outlook, 1, killed).refusal is None
    for now in range(2, given_up, 2):
        assert look(outlook, now, killed).refusal is None
    assert look(outlook, given_up + 1, killed).refusal is not None


def test_a_container_that_says_why_it_cannot_start_is_believed() -> None:
    """Wrong keys that come with a new Secret are not waited out, also if the pod before had worked."""
    outlook = look(Outlook(Patience()), 0, ready=1)
    refused = Trouble(Kind.CRASH, "trainer cannot start: wrong secret key", StoreDenied)
    look(outlook, 1, refused)
    assert isinstance(look(outlook, 31, refused).refusal, StoreDenied)
