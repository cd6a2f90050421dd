"""The feature store: named, immutable objects in a directory or an S3 bucket.

`ObjectStore` is what everything else sees. A key is a relative path of safe names joined by "/". Writing is atomic (a
reader sees the whole object or none) and idempotent (writing equal bytes again is no error).
"""

from offshelf.store.objects import ObjectInfo, ObjectStore, check_key
from offshelf.store.opening import DOOR_SECONDS, STORE_VERSION, open_bucket, open_store

__all__ = [
    "DOOR_SECONDS",
    "STORE_VERSION",
    "ObjectInfo",
    "ObjectStore",
    "check_key",
    "open_bucket",
    "open_store",
]
