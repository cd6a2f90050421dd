"""Every error that Offshelf raises on purpose.

The message is one line for a person: what is wrong and what to do about it. It never holds a secret or a path that the
reader could not know. Errors know no transport; `offshelf.rpc.status` maps them to gRPC statuses and back.

OffshelfError
├── InvalidInput          something the user gave cannot be used
│   ├── UnknownName       an extractor, classifier or measure that does not exist
│   └── InvalidDataset    a folder, zip or CSV that cannot be used
├── NotFound              no such run, model, artefact or object
├── Conflict              not possible in the present state (a store in use, a run that has ended)
│   └── EngineMismatch    a remote engine does not serve the network that it should
├── Unauthenticated       no token, or a wrong one
├── PermissionDenied      known, and not allowed
│   └── StoreDenied       the store refuses: wrong credentials, read-only, no such bucket
├── ResourceExhausted     too much at a time; trying again later may help
│   ├── QuotaExceeded     a user has as much as they may have
│   └── StoreFull         the store takes no more
├── DataLoss              an artefact is missing or is not what it was
├── Unavailable           not there at the moment; trying again may help
│   ├── EngineUnavailable a remote engine cannot be reached at the moment
│   └── StoreUnavailable  the store cannot be reached at the moment
├── DeadlineExceeded      took longer than allowed
├── Cancelled             stopped because somebody asked for it
├── RunFailed             a run ended without a result
└── Internal              a defect of ours; the request id finds it in the logs
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable


_LONGEST_NAME = 100


class OffshelfError(Exception):
    """The root of all errors raised on purpose."""

    exit_code: ClassVar[int] = 1
    """Exit status of the command line when this error ends it."""

    @property
    def message(self) -> str:
        """The one line for a person."""
        return str(self.args[0]) if self.args else type(self).__name__

    @classmethod
    def named(cls, name: str) -> type[OffshelfError]:
        """Find the error class of a name that another process sent; this class if there is none of that name here."""
        found = {cls}
        while found:
            for candidate in found:
                if candidate.__name__ == name:
                    return candidate
            found = {sub for candidate in found for sub in candidate.__subclasses__()}
        return cls


class InvalidInput(OffshelfError):
    """Something the user gave cannot be used."""

    exit_code = 2


class UnknownName(InvalidInput):
    """An extractor, classifier or measure that does not exist."""

    @classmethod
    def among(cls, kind: str, name: str, known: Iterable[str]) -> UnknownName:
        """Make the error for `name`, with the nearest match and all valid names.

        Parameters
        ----------
        kind
            What the name should be the name of: "extractor", "classifier", "measure".
        name
            What the user wrote.
        known
            The names that exist.
        """
        names = sorted(known)
        name = name[:_LONGEST_NAME]  # comparing takes time that grows with it
        by_lower = {known_name.lower(): known_name for known_name in names}
        near = difflib.get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.5)
        hint = f" Did you mean {by_lower[near[0]]!r}?" if near else ""
        if len(several := [part.strip() for part in name.split(",")]) > 1 and set(several) <= set(names):
            hint = f" Give several as a list: {several}."
        return cls(f"There is no {kind} {name!r}.{hint} Known: {', '.join(names)}.")


class InvalidDataset(InvalidInput):
    """A folder, zip or CSV that cannot be used."""


class NotFound(OffshelfError):
    """No such run, model, artefact or object."""

    exit_code = 2


class Conflict(OffshelfError):
    """Not possible in the present state."""

    exit_code = 2


class EngineMismatch(Conflict):
    """A remote engine does not serve the network that it should, or gives answers that cannot be its features."""


class Unauthenticated(OffshelfError):
    """No token, or a wrong one."""

    exit_code = 2


class PermissionDenied(OffshelfError):
    """Known, and not allowed."""

    exit_code = 2


class StoreDenied(PermissionDenied):
    """The store refuses: wrong credentials, read-only, no such bucket."""


class ResourceExhausted(OffshelfError):
    """A quota is used up, or too much is asked for at a time."""


class QuotaExceeded(ResourceExhausted):
    """A user has as much as they may have; trying again does not help."""

    exit_code = 2


class StoreFull(ResourceExhausted):
    """The store takes no more; nothing was written."""


class DataLoss(OffshelfError):
    """An artefact is missing or is not what it was."""


class Unavailable(OffshelfError):
    """Not there at the moment; trying again may help."""

    exit_code = 2


class EngineUnavailable(Unavailable):
    """A remote engine cannot be reached at the moment, or has too much to do."""


class StoreUnavailable(Unavailable):
    """The store cannot be reached at the moment."""


class DeadlineExceeded(OffshelfError):
    """Took longer than allowed."""


class Cancelled(OffshelfError):
    """Stopped because somebody asked for it."""

    exit_code = 130


class RunFailed(OffshelfError):
    """A run ended without a result."""


class Internal(OffshelfError):
    """A defect of ours; the request id finds it in the logs."""
