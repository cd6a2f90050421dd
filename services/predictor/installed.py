"""The extractors of this installation, opened in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.errors import Conflict, DataLoss, InvalidInput, NotFound
from offshelf.extraction.extractors import Extractors
from offshelf.extraction.own.description import is_name
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.runtime import load_openvino
from offshelf.extraction.spec import fingerprint as fingerprint_of
from offshelf.extraction.spec import fingerprints

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from offshelf.extraction.engine import InferenceEngine
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.settings import Settings
    from offshelf.store import ObjectStore


class InstalledExtractors:
    """Opens extractors for models that were made with exactly the same.

    Parameters
    ----------
    store
        Where converted networks are kept.
    settings
        Where weights are looked for, which networks run elsewhere, and the limits of the decoder.
    extractors
        Those that have a name of their own; networks of users' own are in the store.
    connect
        Makes the engine of an extractor whose network runs elsewhere.

    Raises
    ------
    InvalidInput
        If a network cannot run where the settings say.
    """

    def __init__(
        self,
        store: ObjectStore,
        settings: Settings,
        extractors: Mapping[str, ExtractorSpec],
        *,
        connect: Callable[[ExtractorSpec], InferenceEngine] | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._extractors = Extractors(store, extractors, remote=[model.extractor for model in settings.remote_engines])
        self._connect = connect

    def warm_up(self) -> None:
        """Import the engine."""
        load_openvino()

    def open(self, name: str, fingerprint: str) -> Extraction:
        """Make an extractor ready.

        Parameters
        ----------
        name
            Name of the extractor.
        fingerprint
            What it must have, or its features would mean something else.

        Raises
        ------
        Conflict
            If there is none of this name or fingerprint here, or its weights cannot be had, or its engine is remote and
            serves something else.
        EngineUnavailable
            If its engine is remote and away.
        """
        spec = self._extractors.lookup(name)
        if spec is None and is_name(name):
            raise Conflict(
                f"The model needs the network {name}, which this store does not have: upload its file with the same "
                "description (Client.upload_network)."
            )
        if spec is None:
            raise Conflict(
                f"The model needs the extractor {name!r}, which this version of Offshelf does not have. "
                "Install the version that made the model (its card names it)."
            )
        here = fingerprint_of(spec)
        if here != fingerprint and fingerprint in fingerprints(spec):
            raise Conflict(
                f"The model was made with features of {name} from another engine than this installation has: set "
                "OFFSHELF_REMOTE_ENGINES as where the model was made, or fit the model again here."
            )
        if here != fingerprint:
            raise Conflict(
                f"The model was made with another version of {name} ({fingerprint[:12]}; here is {here[:12]}), so its "
                "answers would be wrong. Install the version of Offshelf that made the model (its card names it), or "
                "fit the model again here."
            )
        extraction = Extraction(
            spec,
            store=self._store,
            weights=self._settings.weights,
            cores=self._settings.cores,
            max_pixels=self._settings.max_image_pixels,
            decode_seconds=self._settings.decode_seconds,
            connect=self._connect,
        )
        try:
            extraction.start()
        except (NotFound, InvalidInput, DataLoss) as error:
            extraction.close()
            # The model is there and sound: it is this installation that lacks something.
            raise Conflict(f"The model cannot be used here. {error.message}") from error
        except BaseException:
            extraction.close()
            raise
        return extraction
