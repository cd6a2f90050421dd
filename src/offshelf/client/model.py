"""A fitted model as users hold it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

from offshelf.client import outputs
from offshelf.client.records import Prediction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from offshelf.client.gateway import Gateway
    from offshelf.client.records import ModelSummary

Image: TypeAlias = "str | os.PathLike[str] | bytes"
"""Where an encoded image (JPEG, PNG, ...) lies, or its bytes."""

_MOST_IMAGES = 64
_MOST_BYTES = 24 << 20
"""A message may be 32 MiB; this leaves room for what is around the images."""


@dataclass(frozen=True)
class Model:
    """A fitted model. `Run.best`, `Run.fit` and `Client.model` make these."""

    digest: str
    extractor: str
    classifier: str
    classes: tuple[str, ...]
    _gateway: Gateway = field(repr=False, compare=False)
    _read: Callable[[str], Iterable[bytes]] = field(repr=False, compare=False)
    """Gives the bytes of ``model.skops`` or ``model.json``."""

    @classmethod
    def of(cls, summary: ModelSummary, gateway: Gateway, read: Callable[[str], Iterable[bytes]]) -> Model:
        """Put a model together from what is known of it and where its files can be read."""
        return cls(summary.digest, summary.extractor, summary.classifier, summary.classes, gateway, read)

    @overload
    def predict(self, images: Image) -> Prediction: ...  # type: ignore[overload-overlap]  # a str is an Iterable too

    @overload
    def predict(self, images: Iterable[Image]) -> list[Prediction]: ...

    def predict(self, images: Image | Iterable[Image]) -> Prediction | list[Prediction]:
        """Classify one image, or several.

        Parameters
        ----------
        images
            A path, the bytes of an encoded image, or several of these.

        Returns
        -------
        Prediction or list of Prediction
            One for each image, in order. An image that cannot be read or decoded gives a prediction with an error; it
            stops nothing.

        Raises
        ------
        NotFound
            If the server does not have this model.
        Unavailable
            If the predictor does not answer.
        """
        if isinstance(images, (str, bytes, os.PathLike)):
            return next(self.predict_each([images]))
        return list(self.predict_each(images))

    def predict_each(self, images: Iterable[Image]) -> Iterator[Prediction]:
        """Classify images one chunk after the other, so that results come while the rest is still to do.

        Takes, yields and raises as `predict`.
        """
        chunk: list[_Read] = []
        size = 0
        for image in images:
            read = _read_image(image)
            if chunk and (len(chunk) == _MOST_IMAGES or size + len(read.data) > _MOST_BYTES):
                yield from self._predict_chunk(chunk)
                chunk, size = [], 0
            chunk.append(read)
            size += len(read.data)
        yield from self._predict_chunk(chunk)

    def _predict_chunk(self, chunk: list[_Read]) -> Iterator[Prediction]:
        readable = [read.data for read in chunk if not read.error]
        answers = iter(self._gateway.predict(self.digest, readable) if readable else [])
        for read in chunk:
            if read.error:
                yield Prediction(read.path, error=read.error)
            else:
                yield replace(next(answers), path=read.path)

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the model's files into a new folder, which `Client.model` and ``offshelf predict`` take anywhere.

        Raises
        ------
        Conflict
            If the folder exists and may not be replaced.
        """
        path = Path(folder)
        with outputs.new_folder(path, overwrite=overwrite) as new:
            for name in (outputs.MODEL_FILE, outputs.CARD_FILE):
                outputs.write_artifact(new, name, self._read(name))
        return path


@dataclass(frozen=True, slots=True)
class _Read:
    path: str | None
    data: bytes = b""
    error: str = ""


def _read_image(image: Image) -> _Read:
    if isinstance(image, bytes):
        return _sized(_Read(None, image))
    path = os.fspath(image)
    try:
        # Not read if too large: a mistaken path may name a disk image.
        if Path(path).stat().st_size > _MOST_BYTES:
            return _Read(path, error=_TOO_LARGE)
        return _sized(_Read(path, Path(path).read_bytes()))
    except OSError as error:
        return _Read(path, error=f"cannot be read: {error.strerror or error}")
    except ValueError:
        return _Read(path, error="cannot be read: this is no path")


_TOO_LARGE = f"larger than {_MOST_BYTES >> 20} MiB: make it smaller"


def _sized(read: _Read) -> _Read:
    return replace(read, data=b"", error=_TOO_LARGE) if len(read.data) > _MOST_BYTES else read
