"""The contract, with a server that fails at every tenth request: what a patient store makes of it."""

# ruff: noqa: F401  (the tests are the contract's own, run on another place)

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.conftest import Place, own_prefix
from tests.contract.test_object_store import (
    test_a_long_list_is_complete,
    test_a_missing_object_is_not_found,
    test_a_prefix_may_end_anywhere,
    test_a_range_is_read,
    test_a_store_is_found_again,
    test_an_empty_object_is_an_object,
    test_children_are_the_next_parts,
    test_children_go_with_the_last_object,
    test_files_go_in_and_come_out,
    test_large_bytes_go_in_and_come_out,
    test_lists_are_sorted_by_key,
    test_no_store_is_made_where_none_is_wanted,
    test_readers_see_whole_objects,
    test_two_can_make_a_store_at_once,
    test_what_is_deleted_is_gone,
    test_what_is_put_is_got,
    test_writing_again_replaces,
)
from tests.integration.faulty_s3 import FAULTS, FaultyS3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.integration.rclone_s3 import S3Server


@pytest.fixture(scope="module")
def faulty(s3_server: S3Server) -> Iterator[FaultyS3]:
    """A proxy that fails every tenth request."""
    with FaultyS3(s3_server.address, fail=0.1, delay=0.001, seed=4) as proxy:
        yield proxy


@pytest.fixture
def place(faulty: FaultyS3, s3_server: S3Server, tmp_path: Path) -> Place:
    """Somewhere that holds no store yet, behind the proxy."""
    return Place(s3_server.url(own_prefix(tmp_path), address=faulty.address), s3_server.environ)


def test_all_faults_were_made(faulty: FaultyS3) -> None:
    """A user can rely on these tests: every kind of failure has happened while they passed."""
    assert all(faulty.done[fault] > 0 for fault in FAULTS)
    assert 0.05 < 1 - faulty.done["passed"] / faulty.done.total() < 0.15
