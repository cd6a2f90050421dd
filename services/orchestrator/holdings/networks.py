"""Networks that users bring."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from offshelf.digests import is_digest
from offshelf.errors import DataLoss, InvalidInput, NotFound
from offshelf.extraction.own.description import LONGEST_DESCRIPTION, Description, network_digest, parse_description
from offshelf.extraction.own.stored import MAX_NETWORK_BYTES, OwnNetwork, read_network
from offshelf.services.orchestrator.holdings.admission import Admission
from offshelf.services.orchestrator.holdings.fetching import read_beside
from offshelf.services.orchestrator.holdings.incoming_network import LONGEST_NAME, IncomingNetwork, NetworkHeader
from offshelf.services.orchestrator.holdings.spool import LONGEST_SPOOLED, SpoolRoom
from offshelf.store import keys
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Callable

    from offshelf.extraction.own.description import NetworkFormat
    from offshelf.services.orchestrator.holdings.changes import Changes
    from offshelf.services.orchestrator.holdings.fetching import Fetched, Fetches
    from offshelf.services.orchestrator.holdings.hearing import Hearing
    from offshelf.services.orchestrator.holdings.quotas import Quotas
    from offshelf.services.orchestrator.holdings.shelf import Threads
    from offshelf.store import ObjectStore

MOST: Final = 4
MOST_OF_USER: Final = 2
"""Networks that are being brought at a time."""

CHUNK_BYTES: Final = 1 << 20
"""Most bytes of one message."""

LEAST_BYTES: Final = 64 * 1024
"""So much has to come in the time that a client may be silent, or a share of the network, whichever is more."""

ROOM_BYTES: Final = 2 * MAX_NETWORK_BYTES
"""On the disk, for all networks that are on their way; one user has room for the largest."""


class Networks:
    """Takes networks in.

    Parameters
    ----------
    changes
        Says when things are deleted: what was found must still be there when it is used.
    fetch
        Fetches files of which users give the address.
    room
        On the disk of this machine, for networks on their way.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        threads: Threads,
        quotas: Quotas,
        hearing: Hearing,
        changes: Changes,
        fetch: Fetches,
        room: SpoolRoom | None = None,
    ) -> None:
        self._store = store
        self._threads = threads
        self._quotas = quotas
        self._hearing = hearing
        self._changes = changes
        self._fetch = fetch
        self._room = room or SpoolRoom(ROOM_BYTES, MAX_NETWORK_BYTES, what="networks")
        self._admission = Admission(most=MOST, most_of_user=MOST_OF_USER, what="uploads of networks")

    async def find(self, file: str, format_: NetworkFormat, description: str) -> OwnNetwork | None:
        """Find a network, and keep it for a while; None if the store does not have it whole.

        Parameters
        ----------
        file
            SHA-256 of its file.
        format_, description
            Of the network; the second is JSON.

        Raises
        ------
        InvalidInput
            If the digest is none, or the description cannot be used.
        """
        if not is_digest(file):
            raise InvalidInput("A network is named by the SHA-256 of its file, which has 32 bytes.")
        digest = network_digest(file, format_, parse_description(description, "The description"))
        async with self._changes.making():
            return await self._threads.run(self._renew, digest)

    async def receive(
        self,
        user: str,
        messages: AsyncIterator[NetworkHeader | bytes],
        *,
        on_digest: Callable[[str], None] = lambda _: None,
    ) -> OwnNetwork:
        """Store a network that is being sent: its header, then its bytes.

        Raises
        ------
        InvalidInput
            If there is no header, or what is sent is something else than it says.
        ResourceExhausted
            If the user's quota is used up, the store is full, or too many networks are on their way.
        DeadlineExceeded
            If nothing comes for too long, or too little.
        Unavailable
            If the store cannot be reached, or this server is stopping.
        """
        with self._admission.admitted(user), ExitStack() as held:
            header: NetworkHeader | None = None
            incoming: IncomingNetwork | None = None

            def least() -> int:
                return max(LEAST_BYTES, header.size // LONGEST_SPOOLED if header is not None else 0)

            async with aclosing(self._hearing.of(messages, _bytes, least=least)) as heard:
                async for message in heard:
                    if isinstance(message, NetworkHeader):
                        if header is not None:
                            raise InvalidInput("A network has one header.")
                        on_digest(message.digest)
                        held.callback(await self._room.take(user, message.size))
                        incoming = held.enter_context(IncomingNetwork(message.size))
                        header = message
                    elif incoming is None:
                        raise InvalidInput("A network begins with its header.")
                    elif len(message) > CHUNK_BYTES:
                        raise InvalidInput(f"A message holds more than {CHUNK_BYTES} bytes: send smaller parts.")
                    else:
                        await self._threads.run(incoming.write, message)
            if header is None or incoming is None:
                raise InvalidInput("A network begins with its header.")
            if (incoming.received, incoming.digest) != (header.size, header.file):
                raise InvalidInput(
                    f"{header.name} is not what its header says: expected {header.size} bytes with the SHA-256 "
                    f"{header.file[:12]}...; found {incoming.received} with {incoming.digest[:12]}.... Send it again."
                )
            return await self._keep(user, header, incoming, held)

    async def fetch(
        self,
        user: str,
        address: str,
        format_: NetworkFormat,
        description: str,
        *,
        on_digest: Callable[[str], None] = lambda _: None,
    ) -> OwnNetwork:
        """Store a network of which a user gives the address; without a description, that is fetched from beside it.

        Raises
        ------
        InvalidInput
            If the address or the description cannot be used, or the file is too large.
        NotFound
            If there is no such file, or no description.
        PermissionDenied
            If this server may not fetch from there.
        DeadlineExceeded
            If it comes too slowly.
        ResourceExhausted, Unavailable
            As `receive`; or if it cannot be fetched at the moment.
        """
        with self._admission.admitted(user), ExitStack() as held:
            parsed = await self._threads.run(self._describe, address, description)
            with ExitStack() as source:
                fetched = await self._threads.run(self._open, source, address)
                size = MAX_NETWORK_BYTES if fetched.size is None else fetched.size
                held.callback(await self._room.take(user, size))
                incoming = held.enter_context(IncomingNetwork(size))
                await self._threads.run(_take, incoming, fetched)
            name = PurePosixPath(urlsplit(address).path).name[:LONGEST_NAME]
            header = NetworkHeader(name, format_, parsed, incoming.received, incoming.digest)
            on_digest(header.digest)
            return await self._keep(user, header, incoming, held)

    async def _keep(self, user: str, header: NetworkHeader, incoming: IncomingNetwork, held: ExitStack) -> OwnNetwork:
        allowance = await self._quotas.allowance(user)
        allowance.take(header.file, header.size)
        place = held.pop_all()

        async def write() -> OwnNetwork:
            try:
                with place:
                    async with self._changes.making():
                        network, written = await self._threads.run(self._write, user, header, incoming)
                if written:
                    allowance.keep(header.file)
            finally:
                allowance.give_back(header.file)
            return network

        return await self._changes.to_its_end(write(), name=f"store network {header.digest}")

    def _describe(self, address: str, description: str, *, stop: threading.Event) -> Description:
        if description:
            return parse_description(description, "The description")
        beside, text = read_beside(self._fetch, address, most=LONGEST_DESCRIPTION, stop=stop)
        return parse_description(text, beside)

    def _open(self, source: ExitStack, address: str, *, stop: threading.Event) -> Fetched:
        del stop  # a host that is silent is given up in seconds
        return source.enter_context(self._fetch(address, most=MAX_NETWORK_BYTES))

    def _write(
        self, user: str, header: NetworkHeader, incoming: IncomingNetwork, *, stop: threading.Event
    ) -> tuple[OwnNetwork, bool]:
        """Store a network, unless the store has it; tells whether it had to be written."""
        if (known := self._renew(header.digest, stop=stop)) is not None:
            return known, False
        network = OwnNetwork(
            format=header.format,
            file=header.file,
            description=header.description,
            file_name=header.name,
            size=header.size,
            user=user,
            created_at=datetime.now(UTC),
        )
        with waits_end_with(stop):
            self._store.put_file(keys.own_network_file(header.digest, header.format), incoming.finished())
            self._store.put(keys.own_network_card(header.digest), network.to_json())
        return network, True

    def _renew(self, digest: str, *, stop: threading.Event) -> OwnNetwork | None:
        """Find a network that is whole, and write its card anew, so that it counts as young."""
        with waits_end_with(stop):
            try:
                network = read_network(self._store, digest)
            except (NotFound, DataLoss):
                return None
            stored = self._store.stat(keys.own_network_file(digest, network.format))
            if stored is None or stored.size != network.size:
                return None
            self._store.put(keys.own_network_card(digest), network.to_json())
        return network


def _take(incoming: IncomingNetwork, fetched: Fetched, *, stop: threading.Event) -> None:
    for piece in fetched.read(stop=stop):
        incoming.write(piece, stop=stop)


def _bytes(message: NetworkHeader | bytes) -> int:
    return len(message) if isinstance(message, bytes) else LEAST_BYTES
