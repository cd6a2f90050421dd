"""What addresses of stores and buckets look like, and the environment variables that go with them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote, urlsplit

from offshelf.errors import InvalidInput
from offshelf.store.objects import is_key

if TYPE_CHECKING:
    from collections.abc import Mapping

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_S3_PARAMETERS = frozenset({"endpoint", "region"})


@dataclass(frozen=True)
class S3Address:
    """Where a bucket, or a part of it, is, and the credentials for it."""

    endpoint: str
    """Host and port."""
    secure: bool
    bucket: str
    prefix: str
    """Without slashes at its ends; empty for the whole bucket."""
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    def options(self) -> dict[str, Any]:
        """Give all of it as parameters of `S3Connection`."""
        return dict(vars(self))


def is_s3(url: str) -> bool:
    """Tell whether an address is one in S3."""
    scheme = _SCHEME.match(url)
    return scheme is not None and scheme[1].lower() == "s3"


def s3_address(url: str, environ: Mapping[str, str]) -> S3Address:
    """Take an address in S3 apart.

    Parameters
    ----------
    url
        ``s3://bucket/prefix?endpoint=http://127.0.0.1:9000``, also with ``&region=``.
    environ
        Has ``OFFSHELF_S3_ACCESS_KEY``, ``OFFSHELF_S3_SECRET_KEY`` and, if the address names no endpoint,
        ``OFFSHELF_S3_ENDPOINT``.

    Raises
    ------
    InvalidInput
        If the address cannot be one, or keys are missing.
    """
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
    return S3Address(
        endpoint=endpoint,
        secure=secure,
        bucket=parts.netloc,
        prefix=prefix,
        region=parameters.get("region") or "us-east-1",
        access_key=access_key,
        secret_key=secret_key,
    )


def directory_of(url: str) -> Path:
    """Take the directory from an address: a path, or ``file:///path``.

    Raises
    ------
    InvalidInput
        If it is neither.
    """
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
