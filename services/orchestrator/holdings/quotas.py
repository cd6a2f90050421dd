"""How much each user may have in the store.

What a user has is what the cards of their uploaded datasets say, and what this process has seen them upload that no
dataset names yet. The second part is forgotten by a restart, and by a collection of garbage: a quota keeps a store from
filling up, it is no bill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.errors import QuotaExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.services.orchestrator.holdings.card_index import CardIndex


class Quotas:
    """Counts what users have.

    Parameters
    ----------
    cards
        Of all datasets.
    most_images, most_bytes
        Most images, and bytes of images, of one user; 0 for any number.
    """

    def __init__(self, cards: CardIndex, *, most_images: int = 0, most_bytes: int = 0) -> None:
        self._cards = cards
        self._most_images = most_images
        self._most_bytes = most_bytes
        self._unnamed: dict[str, _Unnamed] = {}

    @property
    def limited(self) -> bool:
        """Whether there are any limits."""
        return bool(self._most_images or self._most_bytes)

    async def allowance(self, user: str) -> Allowance:
        """Look up what a user has, for one upload."""
        if self.limited:
            await self._cards.refresh()
        return Allowance(self, user)

    def add(self, user: str, digest: str, size: int) -> bool:
        """Count an image that no dataset names yet; False if it was counted already.

        Raises
        ------
        QuotaExceeded
            If the user would have more than they may have.
        """
        unnamed = self._unnamed.setdefault(user, _Unnamed())
        if not self.limited or digest in unnamed.sizes:
            return False
        self._check(user, images=len(unnamed.sizes), size=unnamed.bytes, more_images=1, more_bytes=size)
        unnamed.add(digest, size)
        return True

    def remove(self, user: str, digest: str) -> None:
        """Count an image no longer."""
        self._unnamed.setdefault(user, _Unnamed()).remove(digest)

    def check_dataset(self, user: str, images: int, size: int, named: Mapping[str, int]) -> None:
        """Refuse a dataset that would be too much.

        Parameters
        ----------
        user
            Whose it would be.
        images, size
            Of the dataset: number and bytes of its images.
        named
            The images by digest: those that were counted as unnamed are no longer.

        Raises
        ------
        QuotaExceeded
            If the user would have more than they may have.
        """
        unnamed = self._unnamed.get(user, _Unnamed()).sizes
        others = [count for digest, count in unnamed.items() if digest not in named]
        self._check(user, images=len(others), size=sum(others), more_images=images, more_bytes=size)

    def name(self, images: Mapping[str, int]) -> None:
        """Take note that a dataset names these images now."""
        for unnamed in self._unnamed.values():
            for digest in images.keys() & unnamed.sizes.keys():
                unnamed.remove(digest)

    def forget(self) -> None:
        """Forget what no dataset names."""
        self._unnamed.clear()

    def _check(self, user: str, *, images: int, size: int, more_images: int, more_bytes: int) -> None:
        if not self.limited:
            return
        named_images, named_bytes = self._cards.uploaded_by(user)
        images, size = images + named_images, size + named_bytes
        if self._most_images and images + more_images > self._most_images:
            used = f"{images} of {self._most_images} images are used"
            raise _exceeded(used, f"{more_images} more", "OFFSHELF_QUOTA_IMAGES")
        if self._most_bytes and size + more_bytes > self._most_bytes:
            used = f"{_mebibytes(size)} of {_mebibytes(self._most_bytes)} MiB are used"
            raise _exceeded(used, f"{_mebibytes(more_bytes)} MiB more", "OFFSHELF_QUOTA_BYTES")


class Allowance:
    """What one call may still bring, for its user."""

    def __init__(self, quotas: Quotas, user: str) -> None:
        self._quotas = quotas
        self._user = user
        self._coming: set[str] = set()

    def take(self, digest: str, size: int) -> None:
        """Count an image that is being sent. Raises `QuotaExceeded`."""
        if self._quotas.add(self._user, digest, size):
            self._coming.add(digest)

    def keep(self, digest: str) -> None:
        """Count an image for good: this call has brought it into the store."""
        self._coming.discard(digest)

    def give_back(self, digest: str) -> None:
        """Count an image no longer that was only coming: it was refused, or was in the store already."""
        if digest in self._coming:
            self._coming.remove(digest)
            self._quotas.remove(self._user, digest)


class _Unnamed:
    """Images of one user that no dataset names yet."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.bytes = 0

    def add(self, digest: str, size: int) -> None:
        self.sizes[digest] = size
        self.bytes += size

    def remove(self, digest: str) -> None:
        self.bytes -= self.sizes.pop(digest, 0)


def _exceeded(used: str, asked: str, setting: str) -> QuotaExceeded:
    return QuotaExceeded(
        f"Your quota is used up: {used}, and this needs {asked}. Ask an administrator to delete datasets that you no "
        f"longer need (`offshelf datasets list` shows them), or to raise {setting}."
    )


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f}"
