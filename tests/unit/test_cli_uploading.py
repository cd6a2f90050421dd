from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count

import pytest
from rich.console import Console

from offshelf import Cancelled, Removal, RunSpec, RunState, RunStatus, SkippedImage, UploadProgress
from offshelf.cli.datasets import summary
from offshelf.cli.progress import LineDisplay
from offshelf.cli.uploading import BarUpload, LineUpload, mebibytes, say_skipped, shown_on, upload_summary

SENDING = UploadProgress(
    images_total=100,
    images_hashed=100,
    images_to_send=80,
    images_sent=20,
    bytes_to_send=80 << 20,
    bytes_sent=20 << 20,
    bytes_per_second=2.5 * 2**20,
    seconds_left=24.0,
)


def test_a_line_tells_how_an_upload_stands() -> None:
    """In a log, one line has the images, the bytes, the rate and the time left."""
    assert upload_summary(replace(SENDING, images_hashed=7)) == "hashing, 7/100 images"
    assert upload_summary(SENDING) == ("uploading, 20/80 images, 20.0 MiB of 80.0 MiB, 2.5 MiB/s, about 24 s left")
    assert upload_summary(replace(SENDING, images_to_send=0)) == "100 images hashed, none of them to upload"
    assert [mebibytes(size) for size in (5, 2048, 3 << 40)] == ["5 B", "2.0 KiB", "3072.0 GiB"]


def test_lines_of_an_upload_come_every_few_seconds() -> None:
    """A log is not flooded: what is between two lines is not printed, the last always is; waiting is told once."""
    text = io.StringIO()
    seconds = count()
    with LineUpload(Console(file=text), seconds=4, clock=lambda: float(next(seconds))) as display:
        for sent in range(7):
            waiting = "No server answers." if sent in {2, 3} else ""
            display.update(replace(SENDING, images_sent=sent, waiting_for=waiting))
    lines = [line.split(",")[1 if line.startswith("uploading") else 0] for line in text.getvalue().splitlines()]
    assert lines == [" 0/80 images", "Waiting: No server answers.", " 4/80 images", " 6/80 images"]


def test_bars_of_an_upload_are_drawn_on_a_terminal() -> None:
    """On a terminal there is a bar for hashing, and one for sending once that begins, with what it waits for."""
    text = io.StringIO()
    with BarUpload(Console(file=text, force_terminal=True, width=120)) as display:
        display.update(replace(SENDING, images_to_send=0))
        assert "Uploading" not in text.getvalue()
        display.update(SENDING)
    assert "Hashing" in text.getvalue()
    assert "2.5 MiB/s, about 24 s left" in text.getvalue()
    text = io.StringIO()
    with BarUpload(Console(file=text, force_terminal=True, width=120)) as display:
        display.update(replace(SENDING, waiting_for="[no] server answers."))
    assert "[no] server answers." in text.getvalue()


def test_ctrl_c_is_told_apart() -> None:
    """Only who interrupts an upload hears how it goes on; before it begins, Ctrl-C is what it always is."""

    def interrupted(*, sending: bool) -> None:
        with shown_on(Console(file=io.StringIO())) as update:
            if sending:
                update(SENDING)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(sending=False)
    with pytest.raises(Cancelled, match="the same command goes on"):
        interrupted(sending=True)


def test_skipped_images_are_named_up_to_a_point() -> None:
    """Some are named with the reason, very many are counted."""
    text = io.StringIO()
    say_skipped([SkippedImage(f"cat/[{number}].jpg", "does not exist") for number in range(15)], Console(file=text))
    lines = text.getvalue().splitlines()
    assert lines[0] == "Skipped: cat/[0].jpg does not exist"
    assert lines[10:] == ["Skipped: 5 more images that could not be read"]


def test_what_goes_is_told_in_words() -> None:
    """One line says how many of what is removed, and its size."""
    assert summary(Removal()) == "nothing"
    assert summary(Removal(datasets=1, images=3, segments=1, tables=2, scores=1, others=4, bytes=5 << 30)) == (
        "1 dataset, 3 images, 1 file of features, 2 feature tables, 1 score, 4 other files (5.0 GiB)"
    )


def test_what_is_in_the_way_of_a_run_is_told_when_it_changes() -> None:
    """Each notice is a line when it comes, again if it comes back, and the end of all is told too."""
    text = io.StringIO()
    status = RunStatus("01RUN", RunSpec("pets"), RunState.RUNNING, datetime.now(UTC), "waiting")
    with LineDisplay(Console(file=text), seconds=4, clock=lambda: 0.0) as display:
        for notices in (("no room.",), ("no room.",), ("no room.", "no image."), (), ("no room.",)):
            display.update(replace(status, notices=notices))
    lines = [line for line in text.getvalue().splitlines() if line != "waiting"]
    assert lines == [
        "Waiting: no room.",
        "Waiting: no image.",
        "Nothing is in the way any more.",
        "Waiting: no room.",
    ]
