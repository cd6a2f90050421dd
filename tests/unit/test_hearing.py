from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from offshelf.services.orchestrator.holdings.hearing import Hearing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

IDLE = 1.0
PAUSE = 0.6 * IDLE


async def test_what_takes_more_room_gets_a_time_of_its_own() -> None:
    """A client that was quiet before a large image, or is after it, is judged by what was asked of it at that time."""
    least = [1]

    async def sent() -> AsyncIterator[int]:
        for number in range(4):
            await asyncio.sleep(PAUSE)
            yield number

    heard = []
    async for number in Hearing(IDLE).of(sent(), lambda number: 100 if number == 1 else 5, least=lambda: least[0]):
        heard.append(number)
        if number == 0:  # begins something large
            least[0] = 100
        elif number == 2:  # ends it
            least[0] = 1
    assert heard == [0, 1, 2, 3]
