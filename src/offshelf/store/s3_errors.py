"""What an S3 server's refusals mean.

Servers differ in how they say it: an XML body, a body that does not call itself XML, a bare status on HEAD. The error
code is looked for first, the status decides the rest. Credentials are never part of a message.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING

from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, SSLError

from offshelf.errors import StoreDenied, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from offshelf.errors import OffshelfError

_CODE = re.compile(r"<Code>\s*(\w+)\s*</Code>")
_STATUS = re.compile(r"Response code: (\d+)")
_ABSENT = frozenset({"NoSuchKey", "NoSuchObject", "NoSuchVersion"})
_FULL = frozenset(
    {
        "EntityTooLarge",
        "InsufficientCapacity",
        "InsufficientStorage",
        "QuotaExceeded",
        "ServiceQuotaExceeded",
        "XMinioAdminBucketQuotaExceeded",
        "XMinioStorageFull",
    },
)
_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "InvalidSecurity"})
_REGION = frozenset({"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"})
_BUSY = frozenset(
    {
        "InternalError",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "SlowDownRead",
        "SlowDownWrite",
        "ThrottlingException",
        "TooManyRequests",
        "XMinioServerNotInitialized",
    },
)
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


def s3_error(error: Exception, url: str, bucket: str) -> OffshelfError:
    """Say in words what the server, the client or the network reported.

    Parameters
    ----------
    error
        What was raised.
    url
        The store's address without secrets.
    bucket
        The bucket's name.
    """
    if isinstance(error, HTTPError):
        return _network_error(error, url)
    code, status = describe(error) if isinstance(error, MinioException) else ("", 0)
    what = code or (f"HTTP status {status}" if status else "no S3 answer")
    kind: type[OffshelfError] = StoreDenied
    if code in _FULL or status == HTTPStatus.INSUFFICIENT_STORAGE:
        kind, words = StoreFull, "is full: free some space, then run the same command again."
    elif code == "NoSuchBucket":
        words = f"has no bucket {bucket!r}: create it, or correct the address."
    elif code in _KEYS:
        words = f"does not accept the keys ({what}): check OFFSHELF_S3_ACCESS_KEY and OFFSHELF_S3_SECRET_KEY."
    elif code in _REGION:
        words = f"wants another region ({what}): add region=… to its address."
    elif code == "RequestTimeTooSkewed":
        words = "sees another time than this machine has: set this machine's clock."
    elif code in _BUSY or status in _BUSY_STATUS or (status >= _SERVER_ERROR and status != HTTPStatus.NOT_IMPLEMENTED):
        kind, words = StoreUnavailable, f"cannot answer at the moment ({what}): try again later."
    elif not code:
        words = f"does not answer as an S3 server does ({what}): check the endpoint."
    else:
        words = f"refuses ({what}): let these keys list, read, write and delete in bucket {bucket!r}."
    return kind(f"The store at {url} {words}")


def _network_error(error: HTTPError, url: str) -> OffshelfError:
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, SSLError):
        return StoreUnavailable(
            f"The store at {url} cannot be reached safely: its TLS certificate is not trusted here. "
            "Set SSL_CERT_FILE to the certificates of whoever signed it, or correct the endpoint.",
        )
    return StoreUnavailable(
        f"The store at {url} cannot be reached ({type(reason).__name__}): check the endpoint and that the server runs.",
    )
