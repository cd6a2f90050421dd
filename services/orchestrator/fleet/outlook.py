"""When a role that does not come up is worth a word, and when it is given up.

Knows no clock and no cluster: it is told both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from offshelf.errors import OffshelfError
from offshelf.services.orchestrator.fleet.replicas import NOT_ITS_OWN, RoleUnavailable
from offshelf.services.orchestrator.fleet.troubles import Kind

if TYPE_CHECKING:
    from offshelf.services.orchestrator.fleet.troubles import Trouble

_HOPELESS: Final = {Kind.REFUSED, Kind.IMAGE, Kind.CONFIGURATION, Kind.CRASH}
"""What does not mend itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long the fleet of a cluster waits for what, in seconds."""

    trouble: float = 5.0
    """Until a trouble is told: a pod that is pending for a moment is none."""
    creation: float = 30.0
    """Until it is told that a container is being created."""
    hopeless: float = 30.0
    """Until a role without a ready replica is given up over a trouble that does not mend itself."""
    start: float = 180.0
    """Until a role without a ready replica is given up for whatever reason."""
    blocked: float = 1800.0
    """As `start`, while the API is away, or while other work of ours has the room and will give it back."""
    relapse: float = 15.0
    """A trouble that comes back sooner was never over: a container that crashes runs for a moment between."""
    room: float = 10.0
    """Until what nobody holds goes, if a held role without a replica finds no room. Between its extraction and its
    scoring a run holds nothing for a moment."""
    tick: float = 1.0
    """Between two looks at the roles that are held or about to be scaled to zero."""
    listing: float = 5.0
    """Age at which what is known of the Deployments is too old for a role that does not come up."""
    verdict: float = 10.0
    """Until the API is expected to know what became of a process that does not answer."""
    verdict_alive: float = 2.0
    """As `verdict`, for a process that does."""
    verdict_away: float = 60.0
    """As `verdict`, while the API is away."""
    probation: float = 30.0
    """How long a replica that does not answer gets no work, as long as the API says that it is well."""


@dataclass(slots=True)
class Outlook:
    """One role that is held: what is in its way, since when, and what is to be said about it."""

    patience: Patience
    line: str = ""
    """What its holders should have been told."""
    refusal: OffshelfError | None = None
    """Why it is given up, if it is."""
    _trouble: Trouble | None = None
    _since: float = 0.0
    _seen: float = 0.0
    _looked: float | None = None
    _missing_since: float | None = None
    _waited: float = field(default=0.0)
    _was_of_use: bool = False
    """Whether a replica has been ready since the role is held."""

    def forgive(self) -> None:
        """Begin anew: somebody else asks for the role."""
        self.refusal = None
        self._looked = self._missing_since = None
        self._waited = 0.0

    def look(self, now: float, *, ready: int, wanted: int, trouble: Trouble | None, blocked: bool, role: str) -> None:
        """Take note of how the role stands.

        Parameters
        ----------
        now
            The time, in seconds, of a clock that only goes forward.
        ready, wanted
            Replicas that there are, and that there should be.
        trouble
            What is in the way of the others at the moment.
        blocked
            Whether other work of ours has the room, or the API is away: waiting is all that can be done.
        role
            Name of the role's Deployment.
        """
        if ready >= wanted:
            trouble = self._trouble = None
        self._remember(now, trouble)
        self.line = self._say(now, ready, wanted)
        if ready:
            self._was_of_use = True
            self.refusal = None
            self._looked = self._missing_since = None
            self._waited = 0.0
            return
        if self._missing_since is None:
            self._missing_since = now
        if self._looked is not None and not blocked:
            self._waited += now - self._looked
        self._looked = now
        if self.refusal is None:
            self.refusal = self._give_up(now, role)

    def _remember(self, now: float, trouble: Trouble | None) -> None:
        if trouble is None:
            if self._trouble and now - self._seen > self.patience.relapse:
                self._trouble = None
            return
        self._seen = now
        is_new = self._trouble is None or self._trouble.kind is not trouble.kind
        if is_new:
            self._since = now
        if is_new or not trouble.is_vague:
            self._trouble = trouble

    def _say(self, now: float, ready: int, wanted: int) -> str:
        if self._trouble is None:
            return ""
        lasting = self.patience.creation if self._trouble.kind is Kind.CREATION else self.patience.trouble
        if self._trouble.kind is not Kind.MISSING and now - self._since < lasting:
            return ""
        return f"{self._trouble.line} Going on with {ready} of {wanted} replicas." if ready else self._trouble.line

    def _give_up(self, now: float, role: str) -> OffshelfError | None:
        trouble, missing_since = self._trouble, self._missing_since
        assert missing_since is not None  # noqa: S101  (set by the only caller)
        over = self._waited >= self.patience.start or now - missing_since >= self.patience.blocked
        if trouble is None:
            if not over:
                return None
            waited = f"{now - missing_since:.0f} s"
            return RoleUnavailable(f"{role} was not ready after {waited}; kubectl logs deployment/{role} says why.")
        # One of several replicas may have been in trouble for long; since the last other one went counts.
        lasts = now - max(self._since, missing_since)
        hopeless = lasts >= self.patience.hopeless and trouble.kind in _HOPELESS and not self._may_recover(trouble)
        if not (over or hopeless or trouble.kind is Kind.MISSING):
            return None
        kind = trouble.error if issubclass(trouble.error, NOT_ITS_OWN) else RoleUnavailable
        return kind(trouble.line)

    def _may_recover(self, trouble: Trouble) -> bool:
        """Tell a replica that was killed, by its work or from outside, from one that cannot start.

        A unit that ends its process has to do so several times before the one image is found that does it, and each
        time the next process takes a while to be ready.
        """
        return self._was_of_use and trouble.kind is Kind.CRASH and trouble.error is OffshelfError
