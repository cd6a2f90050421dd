"""How an orchestrator holds its office: as the one process of a store on this machine, or the one pod of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.services.orchestrator.dispatch.budget import CoreBudget
    from offshelf.services.orchestrator.dispatch.peers import GrpcPeers
    from offshelf.services.orchestrator.fleet.replicas import Fleet


class Tenure(Protocol):
    """The right to be the only orchestrator of an installation, and what differs between the two kinds of one."""

    @property
    def epoch(self) -> int:
        """Larger than that of every orchestrator before."""
        ...

    @property
    def takes_up(self) -> bool:
        """Whether unfinished runs go on by themselves, or when their users ask for them again."""
        ...

    @property
    def token_file(self) -> Path | None:
        """File with the token that every call must bring; None where users have tokens of their own."""
        ...

    @property
    def fleet(self) -> Fleet:
        """The replicas of the other services."""
        ...

    @property
    def peers(self) -> GrpcPeers:
        """How they are called."""
        ...

    @property
    def budget(self) -> CoreBudget:
        """Cores that their work shares."""
        ...

    @property
    def scratch(self) -> Path | None:
        """Folder for large files that are needed for a while; None for the system's."""
        ...

    @property
    def extractors_at_a_time(self) -> int:
        """Extractors that one run has in use; 0 for all."""
        ...

    async def locate_predictor(self) -> str:
        """Return where predictions are served, as HOST:PORT. Raises `Unavailable`."""
        ...

    async def announce(self, address: str) -> None:
        """Let clients find this orchestrator, which is ready."""
        ...

    async def withdraw(self) -> None:
        """Let no further client find it."""
        ...

    async def end(self) -> None:
        """Give everything back, the office last."""
        ...
