from __future__ import annotations

import contextvars

from offshelf import deadline
from offshelf.leases import LeaseCache


def bound(seconds: float | None) -> contextvars.Context:
    """Make the context of work for a call that is due in so many seconds."""
    context = contextvars.Context()
    context.run(deadline.call_is_due_in, seconds)
    context.run(deadline.bind_to_call)
    return context


def test_nothing_is_given_more_time_than_its_user_has() -> None:
    """What is asked of others on the way to an answer ends when nobody waits for the answer any more."""
    assert 50 < bound(60).run(deadline.at_most, 300) <= 60
    assert bound(60).run(deadline.at_most, 5) == 5
    assert bound(-1).run(deadline.at_most, 5) == 0


def test_what_others_wait_for_is_not_due_with_one_of_them() -> None:
    """A network that several users wait for is loaded to the end, though the first of them is in a hurry."""
    hasty = bound(1)
    cache = LeaseCache[str, float](lambda _: deadline.at_most(300), lambda _: None, capacity=1)

    def ask() -> float:
        with cache.lease("network") as seconds:
            return seconds

    assert hasty.run(ask) == 300
    assert hasty.run(deadline.at_most, 300) <= 1


def test_without_a_deadline_each_call_has_its_own() -> None:
    """A user who waits as long as it takes bounds nothing, and neither does one whose request only began something."""
    assert bound(None).run(deadline.at_most, 300) == 300
    begun = contextvars.Context()
    begun.run(deadline.call_is_due_in, 1)
    assert begun.run(deadline.at_most, 300) == 300
