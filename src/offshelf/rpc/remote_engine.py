"""The engine elsewhere: a network on a server that speaks TensorFlow Serving's ``PredictionService``.

One image a request, as uint8: a quarter of what its floats would be, and what is made of them is inside the served
network. A server with accelerators makes batches of what comes in at the same time, if it is told to. What a server
answers is believed only as far as it can be checked: it must serve the right network (which one that is, the models of
`offshelf weights export` say themselves), and a vector must have the right type and length, and be finite.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import grpc

from offshelf import deadline
from offshelf.backoff import full_jitter
from offshelf.errors import Cancelled, EngineMismatch, EngineUnavailable
from offshelf.extraction.spec import fingerprint as fingerprint_of
from offshelf.rpc.channel import open_foreign_channel
from offshelf.rpc.serving_api import load_serving_api
from offshelf.served_models import FEATURES, FINGERPRINT, IDENTITY_SIGNATURE, SIGNATURE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.served_models import ServedModel
    from offshelf.settings import Settings

logger = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 90.0
"""For how long an image of a run is sent again while the server is away: longer than it takes to start again."""

_FIRST_SECONDS: Final = 0.2
_LONGEST_SECONDS: Final = 5.0
_TELL_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.1

_PASSES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
    }
)
"""With these a server that is away, overloaded or broken answers what it would answer otherwise at another time."""

_COMING: Final = frozenset({"UNKNOWN", "START", "LOADING"})
"""States of a version that may be there soon."""

_AVAILABLE: Final = "AVAILABLE"


class _Refused(EngineMismatch):
    """The server does not take what it is sent."""


def connector(settings: Settings, *, patience: float) -> Callable[[ExtractorSpec], RemoteEngine]:
    """Return what makes the engine of an extractor whose network this installation has elsewhere.

    Parameters
    ----------
    settings
        Say where networks run, and how to speak to the servers.
    patience
        As for `RemoteEngine`.
    """
    models = {model.extractor: model for model in settings.remote_engines}

    def connect(spec: ExtractorSpec) -> RemoteEngine:
        return RemoteEngine(
            models[spec.name],
            dimension=spec.dimension,
            fingerprint=fingerprint_of(spec),
            seconds=settings.engine_seconds,
            patience=patience,
            ca=settings.engine_ca,
            plaintext=settings.engine_plaintext,
        )

    return connect


class RemoteEngine:
    """A network on a server, ready to be asked from any number of threads; `offshelf.extraction.engine` has the rest.

    Parameters
    ----------
    model
        Where it is, and what it is called there.
    dimension
        Length of its vectors.
    fingerprint
        Of the extractor; a server that names another one is refused.
    seconds
        How long one answer may take; less where somebody waits for it who does not wait so long.
    patience
        For how many seconds an image is sent again while the server is away.
    ca, plaintext
        As for `offshelf.rpc.channel.open_channel`.

    Raises
    ------
    NotFound
        If tensorflow-serving-api is not installed.
    InvalidInput
        If the address or the file of certificates cannot be used.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        dimension: int,
        fingerprint: str,
        seconds: float,
        patience: float,
        ca: Path | None = None,
        plaintext: bool = False,
    ) -> None:
        self._api = load_serving_api()
        self._model = model
        self._dimension = dimension
        self._fingerprint = fingerprint
        self._seconds = seconds
        self._patience = patience
        self._channel = open_foreign_channel(model.address, ca=ca, plaintext=plaintext)
        self._predict = self._api.prediction_service.PredictionServiceStub(self._channel).Predict
        self._status = self._api.model_service.ModelServiceStub(self._channel).GetModelStatus
        self._closed = threading.Event()
        self._checked: set[int] = set()
        """Versions that have said which network they are."""
        self._told = -_TELL_SECONDS

    @property
    def seconds_in_inference(self) -> float:
        """Always 0: a call elsewhere has a deadline, and its thread comes back."""
        return 0.0

    def infer(self, pixels: NDArray[np.uint8], *, stop: threading.Event | None = None) -> NDArray[np.float32]:
        """Compute one embedding; see `offshelf.extraction.engine.InferenceEngine`."""
        answer = self._asked(SIGNATURE, FEATURES, pixels, stop)
        version = int(answer.model_spec.version.value)
        if version not in self._checked:
            self._check_identity(pixels, version, stop)
            self._checked.add(version)
        try:
            return self._api.features_in(answer, self._dimension)
        except ValueError as error:
            raise EngineMismatch(f"{self._place()} gave something else than features: {error}.") from error

    def close(self) -> None:
        """Close the connection; calls that wait raise `Cancelled`."""
        self._closed.set()
        self._channel.close()

    # --------------------------------------------------------------------------------------------- asking, and again

    def _asked(
        self, signature: str, output: str, pixels: NDArray[np.uint8], stop: threading.Event | None, version: int = 0
    ) -> Any:
        """Ask for one output of one image, again and again while the server is away and patience lasts."""
        request = self._api.image_request(
            self._model.model, version or self._model.version, signature, output=output, pixels=pixels
        )
        failures, end = 0, time.monotonic() + deadline.at_most(self._patience)
        while True:
            self._check_wanted(stop)
            seconds = deadline.at_most(self._seconds)
            try:
                return self._predict(request, timeout=seconds)
            except grpc.RpcError as error:
                self._check_wanted(stop)  # closing the channel ends its calls, too
                away = self._reason(error, seconds)
                failures += 1
                if time.monotonic() >= end:
                    raise away from error
                self._tell(away)
            except ValueError:  # of a channel that was closed before the call
                self._check_wanted(stop)
                raise
            pause = full_jitter(failures, first=_FIRST_SECONDS, longest=_LONGEST_SECONDS)
            self._wait(min(pause, max(0.0, end - time.monotonic())), stop)

    def _check_wanted(self, stop: threading.Event | None) -> None:
        if self._closed.is_set() or (stop is not None and stop.is_set()):
            raise Cancelled("Extraction was stopped.")

    def _wait(self, seconds: float, stop: threading.Event | None) -> None:
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0 and not (stop is not None and stop.is_set()):
            if self._closed.wait(rest if stop is None else min(rest, _LOOK_SECONDS)):
                return

    def _tell(self, error: EngineUnavailable) -> None:
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._told = time.monotonic()
            logger.warning("waiting for a remote engine", extra={"reason": error.message, "seconds": self._patience})

    # ------------------------------------------------------------------------------------------- what an answer means

    def _reason(self, error: grpc.RpcError, seconds: float) -> EngineUnavailable:
        """Return why it is worth asking again. Raises `EngineMismatch` if it is not."""
        code, details = error.code(), " ".join((error.details() or "").split())
        if code is grpc.StatusCode.NOT_FOUND:
            return self._missing()
        if code not in _PASSES:
            raise _Refused(f"{self._place()} refused an image ({code.name}: {details[:300]}).") from error
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return EngineUnavailable(f"{self._place()} did not answer within {seconds:.3g} s.")
        advice = ""
        if "CERTIFICATE_VERIFY_FAILED" in details or "Hostname Verification" in details:
            advice = (
                " Name the authority of its certificate in OFFSHELF_ENGINE_CA, and one of its names as its address."
            )
        elif "WRONG_VERSION_NUMBER" in details:
            advice = " It speaks no TLS: let it, or say with OFFSHELF_ENGINE_PLAINTEXT=1 that something else encrypts."
        return EngineUnavailable(f"{self._place()} does not answer ({code.name}: {details[:300]}).{advice}")

    def _missing(self) -> EngineUnavailable:
        """Say what the server has instead of the model, or the version, that it does not have.

        Returns why it may have it soon, or raises `EngineMismatch`.
        """
        request = self._api.status.GetModelStatusRequest()
        request.model_spec.name = self._model.model
        try:
            answer = self._status(request, timeout=deadline.at_most(self._seconds))
        except grpc.RpcError as error:
            if error.code() in _PASSES:
                return EngineUnavailable(f"{self._place()} does not say which models it has ({error.code().name}).")
            raise EngineMismatch(
                f"{self._place()} has no model of that name: export it (offshelf weights export) and have it served, "
                "or correct OFFSHELF_REMOTE_ENGINES."
            ) from error
        states = self._api.states_in(answer)
        wanted = self._model.version
        found = ", ".join(f"version {version} ({state})" for version, state in sorted(states.items())) or "none"
        # Of any version one that is available counts as coming, too: it has taken the place of the one that was asked.
        coming = states.get(wanted) in _COMING if wanted else bool({*_COMING, _AVAILABLE} & {*states.values()})
        if coming:
            return EngineUnavailable(f"{self._place()} is still loading it: it has {found}.")
        expected = f"version {wanted}" if wanted else "a version that is available"
        raise EngineMismatch(f"{self._place()} does not have what it should: expected {expected}, found {found}.")

    def _check_identity(self, pixels: NDArray[np.uint8], version: int, stop: threading.Event | None) -> None:
        """Make sure that a version which has answered is the right network, as far as it can tell."""
        try:
            answer = self._asked(IDENTITY_SIGNATURE, FINGERPRINT, pixels, stop, version)
        except _Refused:
            named = b""
        else:
            named = self._api.string_in(answer, FINGERPRINT)
        if not named:
            # Not of our export, or not on TensorFlow Serving: whoever set it up knows what it is.
            logger.warning(
                "a remote engine does not say which network it has, so nobody checks",
                extra={"address": self._model.address, "model": self._model.model, "version": version},
            )
        elif named != self._fingerprint.encode():
            raise EngineMismatch(
                f"{self._place()} serves another network (version {version}): expected the fingerprint "
                f"{self._fingerprint[:12]} of {self._model.extractor}, found "
                f"{named[:12].decode(errors='replace')}. Export it anew with this version of Offshelf."
            )

    def _place(self) -> str:
        version = f" version {self._model.version}" if self._model.version else ""
        return f"The remote engine at {self._model.address} (model {self._model.model}{version})"
