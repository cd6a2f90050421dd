"""Lists of objects in the order of their keys, as S3 servers send them, without holding a long list in memory."""

from __future__ import annotations

from itertools import islice, pairwise
from typing import TYPE_CHECKING

from offshelf.errors import StoreDenied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.store.objects import ObjectInfo

_LOOKED_AT = 1000
"""Objects that are looked at before the first is passed on: a page of a server's list, so usually all there are."""


def in_order(found: Iterator[ObjectInfo], url: str) -> Iterator[ObjectInfo]:
    """Pass objects on in the order of their keys, each once.

    S3 promises that order. A server whose first page is in another one is not relied on: its list is fetched whole and
    sorted. One that is in order for a page and then is not cannot be mended any more, and is refused.

    Parameters
    ----------
    found
        The objects as the server lists them.
    url
        The store's address, for the message.

    Raises
    ------
    StoreDenied
        If the order breaks after objects were passed on.
    """
    looked_at = list(islice(found, _LOOKED_AT))
    if any(second.key < first.key for first, second in pairwise(looked_at)):
        yield from {info.key: info for info in sorted([*looked_at, *found], key=lambda info: info.key)}.values()
        return
    last = ""
    for source in (iter(looked_at), found):
        for info in source:
            if info.key < last:
                raise StoreDenied(
                    f"The store at {url} lists its objects out of order ({info.key!r} after {last!r}), which no S3 "
                    "server should do: use another server, or another kind of bucket.",
                )
            if info.key != last:
                yield info
            last = info.key
