"""Archives of images, as `docker save` writes them."""

from __future__ import annotations

import json
import re
import tarfile
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

_BLOB: Final = re.compile(r"(sha256:)?[0-9a-f]{64}(\.tar|\.json)?")


def merge(archives: Iterable[AbstractContextManager[IO[bytes]]], target: Path) -> None:
    """Put archives of one image each into one archive, with every layer once.

    Parameters
    ----------
    archives
        In the format of `docker save`, read as streams, each opened when its turn comes.
    target
        Appears when it is complete.

    Raises
    ------
    ValueError
        If an archive lacks something that it says it has.
    """
    partial = target.with_suffix(".partial")
    try:
        _write(archives, partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _write(archives: Iterable[AbstractContextManager[IO[bytes]]], partial: Path) -> None:
    written: set[str] = set()
    manifest: list[dict[str, Any]] = []
    with tarfile.open(partial, "w") as merged:
        for opened in archives:
            with opened as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
                for member in archive:
                    # Besides these there are links and files for versions of Docker that nobody has.
                    content = archive.extractfile(member) if member.isreg() else None
                    if content is not None and member.name == "manifest.json":
                        manifest += json.load(content)
                    elif content is not None and _BLOB.fullmatch(member.name) and member.name not in written:
                        merged.addfile(member, content)
                        written.add(member.name)
        missing = {name for image in manifest for name in (image["Config"], *image["Layers"])} - written
        if missing or not manifest:
            raise ValueError(f"an archive ended early: {sorted(missing)}")
        text = json.dumps(manifest).encode()
        member = tarfile.TarInfo("manifest.json")
        member.size = len(text)
        merged.addfile(member, BytesIO(text))
