"""What an S3 server's refusals mean.

Servers differ in how they say it: an XML body, a body that does not call itself XML, a bare status on HEAD. The error
code is looked for first, the status decides the rest. Credentials are never part of a message.
"""

from __future__ import annotations

import re
import socket
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, TypeAlias

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, SSLError

from offshelf.errors import StoreDenied, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from offshelf.errors import OffshelfError

Doing: TypeAlias = Literal["list", "read", "write", "delete"]
"""What a server may refuse to do."""

_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
_STATUS = re.compile(r"Response code: (\d+)")
_ABSENT = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchVersion"})
_FULL = frozenset(
    {
        "DiskFull",
        "EntityTooLarge",
        "InsufficientCapacity",
        "InsufficientStorage",
        "InsufficientStorageSpace",
        "NotEnoughSpace",
        "QuotaExceeded",
        "ServiceQuotaExceeded",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioStorageFull",
    },
)
_NO_BUCKET = (
    "has no bucket '{bucket}': correct the address, or create it (aws s3 mb s3://{bucket} --endpoint-url {endpoint})."
)
_NO_KEY = "does not know the access key ({code}): check OFFSHELF_S3_ACCESS_KEY, and that this server is meant."
_NO_REGION = "wants another region ({code}): add region=… to its address."
_REFUSALS = {
    "NoSuchBucket": _NO_BUCKET,
    "InvalidAccessKeyId": _NO_KEY,
    "InvalidToken": _NO_KEY,
    "ExpiredToken": _NO_KEY,
    "InvalidSecurity": _NO_KEY,
    "SignatureDoesNotMatch": "does not accept the secret key ({code}): check OFFSHELF_S3_SECRET_KEY.",
    "AuthorizationHeaderMalformed": _NO_REGION,
    "PermanentRedirect": _NO_REGION,
    "IllegalLocationConstraintException": _NO_REGION,
}
_ONE_OBJECT = frozenset({"AccessDenied", "AllAccessDisabled", "InvalidObjectState"})
# What is repeated: the server is busy or starting, a body was damaged on the way, or an upload in parts was lost with
# the memory of its server (the next try begins a new one).
_BUSY = frozenset(
    {
        "BadDigest",
        "IncompleteBody",
        "InternalError",
        "InvalidPart",
        "NoSuchUpload",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "ThrottlingException",
        "TooManyRequests",
        "XAmzContentSHA256Mismatch",
        "XMinioServerNotInitialized",
    },
)
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
_OUT_OF_DATE = frozenset({9, 10})
"""OpenSSL's numbers for certificates that are not yet valid, or not any more."""
_CLOCK_SECONDS = 14 * 60.0
"""Servers take 15 minutes; a refused request may have been on its way for a while."""
_REFUSED = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN})
_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR
_BUSY_STATUS = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS})


def describe(error: MinioException) -> tuple[str, int]:
    """Find the S3 error code ("" if there is none) and the HTTP status (0 if unknown) of what the client raised."""
    if isinstance(error, S3Error):
        return error.code or "", int(error.response.status)
    if isinstance(error, ServerError):
        return "", error.status_code
    if isinstance(error, InvalidResponseError):
        # What the client calls non-XML is often XML under another content type ("text/xml", by rclone).
        found, status = _CODE.search(str(error)), _STATUS.search(str(error))
        return (found[1] if found else ""), (int(status[1]) if status else 0)
    return "", 0


def absent(error: MinioException) -> bool:
    """Tell whether the server says that there is no such object (and not: no such bucket)."""
    return describe(error)[0] in _ABSENT


def beyond_end(error: MinioException) -> bool:
    """Tell whether the server says that a range begins at or after the object's end."""
    code, status = describe(error)
    return code == "InvalidRange" or status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE


def refused_alone(error: MinioException) -> bool:
    """Tell whether the server refuses one object though it may have answered for others: by its policy, or archived."""
    return describe(error)[0] in _ONE_OBJECT


def s3_error(
    error: Exception, url: str, bucket: str, doing: Doing = "read", *, clock_ahead: float = 0.0
) -> OffshelfError:
    """Say in words what the server, the client or the network reported.

    Parameters
    ----------
    error
        What was raised.
    url
        The store's address without secrets.
    bucket
        The bucket's name.
    doing
        What was asked for.
    clock_ahead
        By how many seconds this machine's clock is before the server's, as far as is known: not every refusal says that
        this is the reason.
    """
    if isinstance(error, HTTPError):
        return _network_error(error, url)
    code, status = describe(error) if isinstance(error, MinioException) else ("", 0)
    what = code or (f"HTTP status {status}" if status else "no S3 answer")
    if code in _FULL or status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StoreFull(f"The store at {url} is full: free some space, then run the same command again.")
    if code == "RequestTimeTooSkewed" or (status in _REFUSED and abs(clock_ahead) > _CLOCK_SECONDS):
        off = f"{abs(clock_ahead) / 60:.0f} minutes {'ahead of' if clock_ahead > 0 else 'behind'}"
        words = (
            f"refuses requests since this machine's clock is {off if clock_ahead else 'too far from'} its own "
            f"({what}): set the clock of {socket.gethostname()}."  # whoever reads this may be at another machine
        )
    elif code in _BUSY or status in _BUSY_STATUS or (status >= _SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED):
        cause = " (is its disk full, or may it only be read?)" if code == "InternalError" and doing == "write" else ""
        return StoreUnavailable(
            f"The store at {url} cannot answer at the moment ({what}): try again later, or look into its log{cause}."
        )
    elif code == "AccessDenied" or (not code and status == HTTPStatus.FORBIDDEN):
        words = f"does not let these keys {doing} in bucket {bucket!r} ({what}): allow it, or check the keys."
    elif not code:
        words = f"does not answer as an S3 server does ({what}): check the endpoint."
    elif code in _REFUSALS:
        endpoint = url.partition("endpoint=")[2].partition("&")[0]
        words = _REFUSALS[code].format(code=code, bucket=bucket, endpoint=endpoint)
    else:
        words = f"refuses to {doing} ({what}): let these keys list, read, write and delete in bucket {bucket!r}."
    return StoreDenied(f"The store at {url} {words}")


def _network_error(error: HTTPError, url: str) -> OffshelfError:
    reason = getattr(error, "reason", None) or error
    cause = reason.args[0] if isinstance(reason, SSLError) and reason.args else reason
    if isinstance(cause, ssl.SSLCertVerificationError):
        mend = "Set SSL_CERT_FILE to the certificates of whoever signed it, or correct the endpoint."
        if cause.verify_code in _OUT_OF_DATE:
            mend = "Renew it, or set this machine's clock."
        return StoreDenied(
            f"The store at {url} cannot be trusted: its TLS certificate does not pass ({cause.verify_message}). {mend}",
        )
    if isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS:
        return StoreDenied(f"The store at {url} does not speak TLS there: write http:// for its endpoint.")
    return StoreUnavailable(
        f"The store at {url} cannot be reached ({type(reason).__name__}): check the endpoint and that the server runs.",
    )
