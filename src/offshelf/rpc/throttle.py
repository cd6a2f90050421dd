"""How often an address may fail to say who it is."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from offshelf.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

FAILURES: Final = 10
"""So many failures of one address are answered in `SECONDS`."""

SECONDS: Final = 60.0
"""See `FAILURES`."""

_MOST_ADDRESSES: Final = 4096
_IPV6_SITE_BITS: Final = 64


class TooManyFailures(ResourceExhausted):
    """An address has failed so often that it is not even told how any more."""


class FailureLimit:
    """Counts failures by address, in bounded memory: of too many addresses, the one that failed longest ago goes.

    Only failures are limited. Many users share one address behind a router, and in a cluster often all of them do, so
    turning away right tokens too would give anybody the means to shut everybody out. It would win nothing either: a
    token of 256 random bits is not found by guessing, however fast. What the limit saves is logs and time, and it tells
    a program that tries on and on with an old token to stop.

    Parameters
    ----------
    clock
        Gives seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, most_addresses: int = _MOST_ADDRESSES) -> None:
        self._clock = clock
        self._most_addresses = most_addresses
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def failed(self, address: str) -> float:
        """Take note of a failure; give the seconds until the next is answered, or 0 if this one is."""
        now = self._clock()
        times = self._failures.setdefault(address, deque(maxlen=FAILURES))
        self._failures.move_to_end(address)
        if len(self._failures) > self._most_addresses:
            self._failures.popitem(last=False)
        if len(times) == FAILURES and now - times[0] < SECONDS:
            return SECONDS - (now - times[0])
        times.append(now)
        return 0.0

    def __len__(self) -> int:
        return len(self._failures)


def address_of(peer: str) -> str:
    """Find the address in gRPC's name of a peer, "ipv4:10.0.0.1:50123": without the port, which changes.

    Of an IPv6 address it is the first half: who has one has all the rest.
    """
    kind, _, rest = unquote(peer).partition(":")
    host = rest.rpartition(":")[0].strip("[]").partition("%")[0]
    if kind != "ipv6":
        return host
    try:
        return str(ipaddress.ip_network((host, _IPV6_SITE_BITS), strict=False))
    except ValueError:
        return host
