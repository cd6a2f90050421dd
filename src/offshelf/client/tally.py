"""Counting what an upload has done, from several threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from offshelf.client.records import UploadProgress

if TYPE_CHECKING:
    from collections.abc import Callable

_WINDOW_SECONDS = 10.0


class Tally:
    """What has been hashed and sent, and how fast."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._images_total = self._images_hashed = 0
        self._images_to_send = self._images_sent = 0
        self._bytes_to_send = self._bytes_sent = 0
        self._marks: deque[tuple[float, int]] = deque()
        self._waiting: dict[object, str] = {}

    def hash(self, done: int, total: int) -> None:
        """Take note of how many images are hashed, of all."""
        with self._lock:
            self._images_hashed, self._images_total = done, total

    def expect(self, images: int, size: int) -> None:
        """Take note of what is to be sent besides what was."""
        with self._lock:
            self._images_to_send = self._images_sent + images
            self._bytes_to_send = self._bytes_sent + size

    def send(self, images: int, size: int) -> None:
        """Take note of what was sent, or take it back if it has to be sent again (negative figures)."""
        with self._lock:
            self._images_sent += images
            self._bytes_sent += size
            self._marks.append((self._clock(), size))

    def wait(self, who: object, reason: str) -> None:
        """Take note that one of the threads waits, or with an empty reason that it goes on."""
        with self._lock:
            self._waiting.pop(who, None)
            if reason:
                self._waiting[who] = reason

    def progress(self) -> UploadProgress:
        """Say how the upload stands."""
        with self._lock:
            rate = self._rate()
            left = max(0, self._bytes_to_send - self._bytes_sent)
            return UploadProgress(
                images_total=self._images_total,
                images_hashed=self._images_hashed,
                images_to_send=self._images_to_send,
                images_sent=self._images_sent,
                bytes_to_send=self._bytes_to_send,
                bytes_sent=self._bytes_sent,
                bytes_per_second=rate,
                seconds_left=left / rate if rate else None,
                waiting_for=next(iter(self._waiting.values()), ""),
            )

    def _rate(self) -> float:
        now = self._clock()
        while self._marks and now - self._marks[0][0] > _WINDOW_SECONDS:
            self._marks.popleft()
        if len(self._marks) < 2:  # noqa: PLR2004  (a rate needs two points)
            return 0.0
        seconds = max(now - self._marks[0][0], 1e-3)
        return max(0.0, sum(size for _, size in self._marks) / seconds)
