"""From a store's address to the store, after a look at whose it is."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from offshelf.digests import canonical_json
from offshelf.errors import Conflict, DataLoss, NotFound
from offshelf.store import keys
from offshelf.store.addresses import S3Address, directory_of, is_s3, s3_address
from offshelf.store.directory import DirectoryStore
from offshelf.store.objects import ObjectStore
from offshelf.store.patience import Patience
from offshelf.store.patient import PatientBucket, PatientStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.store.bucket import WritableBucket

STORE_VERSION = 1
"""Version of the layout that this Offshelf reads and writes (see `offshelf.store.keys`)."""

PATIENCE_SECONDS = 90.0
"""For how long a call of a store in S3 is repeated while the server is away: longer than it takes to start again."""

DOOR_SECONDS = 15.0
"""The same for services whose callers wait for an answer: well within the 30 seconds that a call has."""

START_SECONDS = 60.0
"""The same for the first look at a store: longer than a small S3 server takes to be moved to another machine, since a
process that gives up is started again later and later; shorter than the time a start may take."""


class _Openable(ObjectStore, Protocol):
    def holds_anything(self) -> bool: ...


def open_store(
    url: str, *, create: bool = True, patience: float = PATIENCE_SECONDS, environ: Mapping[str, str] | None = None
) -> ObjectStore:
    """Open the store at an address; make it if there is none.

    Parameters
    ----------
    url
        A directory: a path, or ``file:///path``. Or a bucket: ``s3://bucket/prefix?endpoint=http://127.0.0.1:9000``,
        also with ``&region=``.
    create
        Whether to make the store if there is none. A bucket is never made.
    patience
        For how many seconds a call is repeated while a server in S3 is away.
    environ
        Where ``OFFSHELF_S3_ACCESS_KEY``, ``OFFSHELF_S3_SECRET_KEY`` and, if the address names no endpoint,
        ``OFFSHELF_S3_ENDPOINT`` are looked for; by default the process's environment.

    Raises
    ------
    InvalidInput
        If the address cannot be one, or keys are missing.
    NotFound
        If there is no store and none is to be made.
    Conflict
        If the store has another version, or what is there is no store.
    DataLoss
        If the store's own description cannot be read.
    StoreDenied, StoreFull, StoreUnavailable
        If what is behind the address refuses.
    """
    if is_s3(url):
        address = s3_address(url, os.environ if environ is None else environ)
        return _open_s3_store(address, create=create, patience=patience)
    store = DirectoryStore(directory_of(url))
    if create:
        store.create()
    elif not store.root.is_dir():
        raise _no_store(store.url)
    _check_format(store, create=create)
    store.sweep()
    return store


def open_bucket(url: str, *, beside: str = "", environ: Mapping[str, str] | None = None) -> WritableBucket:
    """Open a bucket, or what lies below a prefix of it, to read what others put there, or put it there for them.

    Its keys are always this installation's, ``OFFSHELF_S3_ACCESS_KEY`` and ``OFFSHELF_S3_SECRET_KEY``. Its server is
    the one that the address names, or else, in this order: that of the store it lies beside, that of
    ``OFFSHELF_S3_ENDPOINT``, that of the store in ``OFFSHELF_STORE``.

    Parameters
    ----------
    url
        ``s3://bucket`` or ``s3://bucket/prefix``, with ``?endpoint=`` and ``&region=`` where its operator gave it. It
        must not come from a user.
    beside
        Address of a store; one that is not in S3 does not matter.
    environ
        Where the variables are looked for; by default the process's environment.

    Raises
    ------
    InvalidInput
        If the address cannot be one, keys are missing, or no server is known.
    """
    environ = os.environ if environ is None else environ
    if not urlsplit(url).query:
        own = environ.get("OFFSHELF_STORE", "") if not environ.get("OFFSHELF_S3_ENDPOINT") else ""
        server = next((urlsplit(store).query for store in (beside, own) if is_s3(store)), "")
        url = f"{url}?{server}"
    address = s3_address(url, environ)

    from offshelf.store.s3_bucket import S3Bucket

    return PatientBucket(S3Bucket(**address.options()), Patience(PATIENCE_SECONDS))


def _open_s3_store(address: S3Address, *, create: bool, patience: float) -> ObjectStore:
    from offshelf.store.s3 import S3Store

    store = S3Store(**address.options())
    Patience(START_SECONDS).call(lambda: _check_format(store, create=create))
    return PatientStore(store, Patience(patience))


def _check_format(store: _Openable, *, create: bool) -> None:
    found = _read_format(store)
    if found is None and store.holds_anything():
        # Another process may have made the store since the first look.
        found = _read_format(store)
        if found is None:
            raise Conflict(
                f"{store.url} is not empty and is no Offshelf store, so nothing is written there: "
                "give an empty or new place.",
            )
    if found is None:
        if not create:
            raise _no_store(store.url)
        store.put(keys.FORMAT, canonical_json({"store_version": STORE_VERSION}))
    elif found > STORE_VERSION:
        raise Conflict(
            f"The store at {store.url} was made by a newer Offshelf (version {found} here {STORE_VERSION}): "
            "update Offshelf, or use another store.",
        )
    elif found < STORE_VERSION:
        raise Conflict(
            f"The store at {store.url} was made by an older Offshelf (version {found} here {STORE_VERSION}): "
            "use a new store and run again, which computes the results anew, or keep the older Offshelf for this one.",
        )


def _read_format(store: ObjectStore) -> int | None:
    try:
        data = store.get(keys.FORMAT)
    except NotFound:
        return None
    try:
        content = json.loads(data)
    except ValueError:
        content = None
    version = content.get("store_version") if isinstance(content, dict) else None
    if type(version) is not int:
        raise DataLoss(
            f"{keys.FORMAT} of the store at {store.url} is damaged: restore it from a copy, or use another store.",
        )
    return version


def _no_store(url: str) -> NotFound:
    return NotFound(f"There is no Offshelf store at {url}: check the address, or start a run, which makes one.")
