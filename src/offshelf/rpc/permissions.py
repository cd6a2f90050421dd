"""Who may call what, read from the contract: the option `least_role` of each method."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from google.protobuf import descriptor_pool

from offshelf.access import Role
from offshelf.v1 import access_pb2

_REFLECTION: Final = ("/grpc.reflection.v1alpha.ServerReflection/", "/grpc.reflection.v1.ServerReflection/")
"""Not ours, so it says nothing itself. It shows what a viewer may know: the contract."""


@lru_cache(maxsize=1024)
def least_role(method: str) -> Role | None:
    """Find the least role that may call a method, for example "/offshelf.v1.StatsService/Compare".

    None if the contract says nothing about it: then it is closed to everyone.
    """
    if method.startswith(_REFLECTION):
        return Role.VIEWER
    try:
        found = descriptor_pool.Default().FindMethodByName(method.removeprefix("/").replace("/", "."))
    except KeyError:
        return None
    number = found.GetOptions().Extensions[access_pb2.least_role]
    return Role(number) if number else None


def is_internal(service: str) -> bool:
    """Tell whether all methods of a service, by its full name, are for other services alone."""
    found = descriptor_pool.Default().FindServiceByName(service)
    return all(least_role(f"/{service}/{method.name}") is Role.SERVICE for method in found.methods)
