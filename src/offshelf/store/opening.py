"""From a store's address to the store, after a look at whose it is."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from offshelf.digests import canonical_json
from offshelf.errors import Conflict, DataLoss, InvalidInput, NotFound
from offshelf.store import keys
from offshelf.store.directory import DirectoryStore
from offshelf.store.objects import ObjectStore, is_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.store.s3 import S3Store

STORE_VERSION = 1
"""Version of the layout that this Offshelf reads and writes (see `offshelf.store.keys`)."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_S3_PARAMETERS = frozenset({"endpoint", "region"})


class _Openable(ObjectStore, Protocol):
    def holds_anything(self) -> bool: ...


def open_store(url: str, *, create: bool = True, environ: Mapping[str, str] | None = None) -> ObjectStore:
    """Open the store at an address; make it if there is none.

    Parameters
    ----------
    url
        A directory: a path, or ``file:///path``. Or a bucket: ``s3://bucket/prefix?endpoint=http://127.0.0.1:9000``,
        also with ``&region=``.
    create
        Whether to make the store if there is none. A bucket is never made.
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
    scheme = _SCHEME.match(url)
    if scheme is not None and scheme[1].lower() == "s3":
        bucket_store = _s3_store(url, os.environ if environ is None else environ)
        _check_format(bucket_store, create=create)
        return bucket_store
    store = DirectoryStore(_directory(url))
    if create:
        store.create()
    elif not store.root.is_dir():
        raise _no_store(store.url)
    _check_format(store, create=create)
    store.sweep()
    return store


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


def _directory(url: str) -> Path:
    scheme = _SCHEME.match(url)
    if scheme is None:
        path = url
    elif scheme[1].lower() == "file":
        parts = urlsplit(url)
        if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment:
            raise InvalidInput(f"{url!r} cannot be the address of a store: write file:///path/of/the/store.")
        path = unquote(parts.path)
    else:
        raise InvalidInput(f"A store cannot be at {scheme[0]}…: give a directory, file:///… or s3://bucket/prefix.")
    if not path.strip() or "\0" in path:
        raise InvalidInput("The address of the store is empty: give a directory or s3://bucket/prefix.")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InvalidInput(f"{path!r} names the home of an account that does not exist: give a full path.") from error


def _s3_store(url: str, environ: Mapping[str, str]) -> S3Store:
    parts = urlsplit(url)
    prefix = unquote(parts.path).strip("/")
    # What is wrong is named, but not repeated: an address with a secret in it must not end up in a log.
    if _BUCKET.fullmatch(parts.netloc) is None:
        raise InvalidInput(
            "The address of an S3 store begins with s3://bucket, the bucket in small letters, digits, '.' and '-', "
            "without keys: those belong into OFFSHELF_S3_ACCESS_KEY and OFFSHELF_S3_SECRET_KEY.",
        )
    if prefix and not is_key(prefix):
        raise InvalidInput(
            "The prefix of an S3 store has parts of letters, digits and '_ . = -' that do not begin with a dot.",
        )
    parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.fragment or not parameters.keys() <= _S3_PARAMETERS:
        raise InvalidInput(
            "The address of an S3 store takes endpoint= and region= and nothing else: keys belong into "
            "OFFSHELF_S3_ACCESS_KEY and OFFSHELF_S3_SECRET_KEY.",
        )
    endpoint, secure = _endpoint(parameters.get("endpoint") or environ.get("OFFSHELF_S3_ENDPOINT", ""))
    access_key, secret_key = environ.get("OFFSHELF_S3_ACCESS_KEY", ""), environ.get("OFFSHELF_S3_SECRET_KEY", "")
    if not access_key or not secret_key:
        raise InvalidInput("An S3 store needs keys: set OFFSHELF_S3_ACCESS_KEY and OFFSHELF_S3_SECRET_KEY.")

    from offshelf.store.s3 import S3Store

    return S3Store(
        endpoint,
        parts.netloc,
        prefix,
        access_key=access_key,
        secret_key=secret_key,
        secure=secure,
        region=parameters.get("region") or "us-east-1",
    )


def _endpoint(url: str) -> tuple[str, bool]:
    """Take host and port, and whether to use TLS, from an endpoint's URL."""
    if not url:
        raise InvalidInput(
            "Which S3 server? Add ?endpoint=https://… to the store's address or set OFFSHELF_S3_ENDPOINT "
            "(Amazon: https://s3.amazonaws.com).",
        )
    parts = urlsplit(url)
    try:
        parts.port  # noqa: B018  raises for what is no port
        usable = parts.scheme in {"http", "https"} and parts.hostname is not None and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable or parts.path.strip("/") or parts.query or parts.fragment:
        raise InvalidInput("An S3 endpoint is written http://host:port or https://host:port, without keys or a path.")
    return parts.netloc, parts.scheme == "https"
