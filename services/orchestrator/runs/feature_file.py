"""A run for features alone: extracted like those of any run, and put into one file."""

from __future__ import annotations

import asyncio
import errno
import logging
import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf import features
from offshelf.errors import Cancelled, ResourceExhausted, RunFailed
from offshelf.services.orchestrator.concurrency import all_of, outlast
from offshelf.services.orchestrator.dispatch.patience import outwait_store
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.artifacts import RunFindings, skipped_images, write_run_artifacts
from offshelf.services.orchestrator.runs.extraction import Extraction
from offshelf.services.orchestrator.runs.status import RunResult
from offshelf.store import keys
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.features import FeatureTable
    from offshelf.services.orchestrator.runs.inputs import Inputs
    from offshelf.services.orchestrator.runs.journal import Journal, Workbench

_log = logging.getLogger(__name__)

FEATURES_FILE = "features.parquet"
"""What users know the artefact by."""

MOST_BYTES = 8 * 1024**3
"""Of the vectors in one file. In a pod, /tmp has room for twice as much and some more."""

_SPARE_BYTES = 1024**3
"""Left free on the disk, which others use as well."""

_TWICE = 2
"""The vectors lie on disk once in the order of the dataset, and once in the file that is made of them."""


class FeatureFile:
    """What such a run comes to."""

    def __init__(self, inputs: Inputs, bench: Workbench, journal: Journal) -> None:
        self._inputs = inputs
        self._dataset = inputs.dataset
        self._bench = bench
        self._journal = journal

    async def make(self) -> RunResult:
        """Have the features extracted and the file written, unless it is there.

        Raises
        ------
        RunFailed
            If no extractor can be had, or no image be used.
        ResourceExhausted
            If the file would be too large, or there is no room to make it.
        OffshelfError
            What the store raises.
        """
        names = self._journal.status.spec.extractors
        turns = self._bench.extraction_turns()
        made = [Extraction(name, self._dataset, self._bench, self._journal, turns=turns) for name in names]
        await all_of(extraction.run() for extraction in made)
        usable = {extraction.extractor: extraction for extraction in made if await self._is_of_use(extraction)}
        tables = {name: extraction.table for name, extraction in usable.items() if extraction.table is not None}
        if not tables:
            raise RunFailed(" ".join(["Nothing could be extracted.", *self._journal.status.left_out]))
        skipped = skipped_images(self._dataset, self._inputs.unread, usable)
        # Until now this counted contents; what was not used are files, and several may have the same content.
        self._journal.status.progress.images_skipped = len({image.path for image in skipped})
        file = await self._file(tables)
        findings = RunFindings(
            dataset=self._dataset,
            skipped=skipped,
            fingerprints={name: table.fingerprint for name, table in tables.items()},
        )
        own = await self._journal.with_store(write_run_artifacts, self._bench.store, self._journal.status, findings)
        return RunResult.of_features(self._dataset.digest, self._dataset.classes, {**own, FEATURES_FILE: file})

    async def _is_of_use(self, extraction: Extraction) -> bool:
        """Tell whether an extractor has features of any image; what has none is left out, with an example."""
        if extraction.table is None:
            return False
        lost = extraction.skipped.keys() | extraction.unread.keys()
        if any(item.digest not in lost for item in self._dataset.items):
            return True
        reason = f"{extraction.extractor} is left out: it could use no image.{extraction.example()}"
        await self._journal.append(runlog.LEFT_OUT, reason=reason)
        return False

    async def _file(self, tables: Mapping[str, FeatureTable]) -> str:
        """Return the key of the file, which is made unless it is there."""
        key = keys.export(self._dataset.digest, features.export_digest(tables, self._dataset))
        if await self._journal.with_store(self._bench.store.stat, key) is not None:
            return key
        _check_size(tables, features.vector_bytes(tables, self._dataset))
        self._journal.say("waiting to write the features")
        async with self._bench.scratch_turn:
            self._journal.say("writing the features")
            with self._journal.status.notices.topic() as tell:
                await outwait_store(lambda: self._write(key, tables), tell)
        return key

    async def _write(self, key: str, tables: Mapping[str, FeatureTable]) -> None:
        """Write the file in a thread, which has ended when this ends, however it does: the next needs its room."""
        stop = threading.Event()
        writing = asyncio.ensure_future(asyncio.to_thread(self._write_at_once, key, tables, stop))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            stop.set()
            await outlast([writing])
            if not writing.cancelled():
                writing.exception()  # that it was stopped, which nobody has to hear
            raise

    def _write_at_once(self, key: str, tables: Mapping[str, FeatureTable], stop: threading.Event) -> None:
        scratch = self._bench.scratch or Path(tempfile.gettempdir())
        try:
            _check_room(scratch, features.vector_bytes(tables, self._dataset))
            with waits_end_with(stop), tempfile.TemporaryDirectory(prefix="features-", dir=scratch) as folder:
                path = Path(folder) / FEATURES_FILE
                features.export_features(self._bench.store, self._dataset, tables, path, stop=stop)
                if stop.is_set():
                    raise Cancelled("Nobody waits for these features any more.")
                self._bench.store.put_file(key, path)
        except OSError as error:
            _log.error("features could not be written", extra={"folder": str(scratch), "reason": str(error)})
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise _no_room(scratch) from error
            raise RunFailed(
                f"The features could not be written in {scratch} ({error.strerror or error}): "
                "whoever runs this server has to mend that."
            ) from error


def _check_size(tables: Mapping[str, FeatureTable], size: int) -> None:
    if size > MOST_BYTES:
        fix = "ask for fewer extractors at a time" if len(tables) > 1 else "divide the dataset"
        raise ResourceExhausted(
            f"The features have {size / 1024**3:.1f} GiB, and one file at most {MOST_BYTES / 1024**3:.0f}: {fix}. "
            "What was extracted is kept."
        )


def _check_room(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < _TWICE * size + _SPARE_BYTES:
        raise _no_room(folder)


def _no_room(folder: Path) -> ResourceExhausted:
    return ResourceExhausted(
        f"The server has no room in {folder} to write the features: free some there, then run the same command again. "
        "What was extracted is kept."
    )
