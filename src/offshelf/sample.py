"""A real sample that needs no download: ``python -m offshelf.sample DIR`` writes handwritten digits as class folders.

The UCI digits that scikit-learn ships (E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", 1998;
CC BY 4.0): the first 50 of each class, enlarged from 8 x 8 to 64 x 64 pixels.
"""

from __future__ import annotations

import secrets
import shutil
import sys
from pathlib import Path

from offshelf.errors import Conflict, OffshelfError

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
IMAGES_A_CLASS = 50
SIDE = 64
"""Width and height of an image, in pixels."""

_BRIGHTEST = 16
"""Each value counts the dark ones of 4 x 4 pixels."""


def write_sample(folder: Path) -> Path:
    """Write the sample, unless it is there already.

    Parameters
    ----------
    folder
        It appears whole or not at all.

    Raises
    ------
    Conflict
        If something else is there.
    """
    if folder.exists():
        if not _is_sample(folder):
            raise Conflict(f"{folder} exists and is not the sample: name another folder.")
        return folder
    folder.absolute().parent.mkdir(parents=True, exist_ok=True)
    partial = folder.absolute().parent / f".{folder.name}.{secrets.token_hex(4)}.partial"
    try:
        _write(partial)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(folder: Path) -> None:
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number, pixels in enumerate(digits.images[digits.target == label][:IMAGES_A_CLASS]):
            grey = np.rint(pixels * (255 / _BRIGHTEST)).astype(np.uint8)
            # Smooth, since the edges of enlarged squares would be all that HOG sees.
            Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / name / _name(number))


def _is_sample(folder: Path) -> bool:
    expected = {f"{name}/{_name(number)}" for name in CLASSES for number in range(IMAGES_A_CLASS)}
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/*")} == expected


def _name(number: int) -> str:
    return f"{number:02d}.png"


def main() -> int:
    """Write the sample to the folder that is named on the command line."""
    if len(sys.argv) != 2:  # noqa: PLR2004  the program and its one argument
        sys.stderr.write("Usage: python -m offshelf.sample DIR\n")
        return Conflict.exit_code
    try:
        write_sample(Path(sys.argv[1]))
    except OffshelfError as error:
        sys.stderr.write(f"Error: {error.message}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
