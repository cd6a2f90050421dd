"""The users file, its tokens, and how often somebody may try."""

from __future__ import annotations

import datetime as dt
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from offshelf import cli, errors
from offshelf.access import Role
from offshelf.rpc.auth import read_token
from offshelf.rpc.throttle import FAILURES, FailureLimit, address_of
from offshelf.tokens import TOKEN_PREFIX, User, add_user, digest_of, find, new_token, read_users, write_users

DIGEST = "ab" * 32


def test_a_token_is_found_again_by_its_digest_alone(tmp_path: Path) -> None:
    """What is kept recognizes a token, with its user's role and date, and is not the token."""
    users, token = add_user((), "ada", Role.RUNNER, days=30)
    users, other = add_user(users, "bob", Role.ADMIN)
    write_users(tmp_path / "users.json", users)
    read = read_users(tmp_path / "users.json")
    assert read == users
    assert find(read, token) == users[0]
    assert find(read, other) == users[1]
    assert find(read, f"{token}x") is None
    text = (tmp_path / "users.json").read_text()
    assert token.removeprefix(TOKEN_PREFIX) not in text
    assert users[0].expires is not None
    assert dt.timedelta(days=29) < users[0].expires - dt.datetime.now(dt.UTC) <= dt.timedelta(days=30)


def test_tokens_are_long_random_and_recognizable() -> None:
    """No token can be guessed, and a scanner finds one that was put into a repository."""
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(token.startswith("offshelf_") and len(token) == 9 + 43 for token in made)


def test_the_users_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Even digests are not shown to other users of a machine, and writing leaves nothing else behind."""
    write_users(tmp_path / "users.json", ())
    write_users(tmp_path / "users.json", (User("ada", Role.VIEWER, DIGEST),))
    assert stat.S_IMODE((tmp_path / "users.json").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["users.json"]


def entry(**changes: Any) -> dict[str, Any]:
    """Make an entry, changed."""
    whole = {"name": "ada", "role": "viewer", "sha256": DIGEST} | changes
    return {key: value for key, value in whole.items() if value is not None}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is not JSON of the form"),
        ("[]", "is not JSON of the form"),
        ('{"users": {}}', "is not JSON of the form"),
        ({"users": ["ada"]}, "entry 1, is no object"),
        ({"users": [entry(name=7)]}, "entry 1, is no object"),
        ({"users": [entry(name="a b")]}, "entry 1, has no usable name"),
        ({"users": [entry(), entry(role="service")]}, "entry 2, has no role of: viewer, runner, admin"),
        ({"users": [entry(sha256="ab")]}, "has no SHA-256"),
        ({"users": [entry(sha256=None)]}, "has no SHA-256"),
        ({"users": [entry(expires="soon")]}, "expires at no date"),
        ({"users": [entry(token="x")]}, "something unknown: token"),
        ({"users": [entry(), entry(name="bob")]}, "the same token twice"),
        (" " * (2**20 + 1), "larger than 1 MiB"),
    ],
)
def test_a_users_file_that_cannot_be_used_says_where(tmp_path: Path, content: Any, said: str) -> None:
    """Whoever writes the file by hand reads what is wrong with it, and in which entry."""
    path = tmp_path / "users.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(errors.InvalidInput, match=said):
        read_users(path)


def test_a_date_without_a_zone_is_in_utc(tmp_path: Path) -> None:
    """A date written by hand means the same everywhere."""
    (tmp_path / "users.json").write_text(json.dumps({"users": [entry(expires="2027-01-31")]}))
    assert read_users(tmp_path / "users.json")[0].expires == dt.datetime(2027, 1, 31, tzinfo=dt.UTC)


def test_the_command_line_gives_and_takes_tokens(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`offshelf tokens` prints the token alone, so that it can go into a file, lists users, and removes them."""
    file = str(tmp_path / "users.json")
    assert cli.main(["tokens", "add", "ada", "--role", "runner", "--days", "5", "--file", file]) == 0
    printed, said = capfd.readouterr()
    assert find(read_users(Path(file)), printed.strip()) is not None
    assert "kubectl create secret generic offshelf-users" in said
    assert printed.strip() not in said
    assert cli.main(["tokens", "add", "ada", "--role", "admin", "--file", file]) == 2
    assert "ada has a token already" in capfd.readouterr().err
    assert cli.main(["tokens", "list", "--file", file]) == 0
    assert "ada   runner  2" in capfd.readouterr().out
    assert cli.main(["tokens", "remove", "bob", "--file", file]) == 2
    assert "Known: ada" in capfd.readouterr().err
    assert cli.main(["tokens", "remove", "ada", "--file", file]) == 0
    assert read_users(Path(file)) == ()
    assert cli.main(["tokens", "add", "a b", "--role", "admin", "--file", file]) == 2


def test_a_token_file_is_its_owners(tmp_path: Path) -> None:
    """A token file that lies open is refused with the command that mends it."""
    path = tmp_path / "token"
    path.write_text("secret-of-this-test\n")
    for mode in (0o604, 0o644, 0o660, 0o620, 0o610):
        path.chmod(mode)
        with pytest.raises(errors.InvalidInput, match=f"can be read by others .*chmod 600 {path}") as refused:
            read_token(path)
        assert "secret-of-this-test" not in refused.value.message
    path.chmod(0o400)
    assert read_token(path) == "secret-of-this-test"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root and of others")
def test_a_group_may_read_what_is_roots(tmp_path: Path) -> None:
    """A Secret of Kubernetes, which root owns and the pod's group may read, is accepted; a user's such file is not."""
    path = tmp_path / "token"
    path.write_text("secret-of-this-test\n")
    path.chmod(0o440)
    assert read_token(path) == "secret-of-this-test"
    os.chown(path, 12345, -1)
    with pytest.raises(errors.InvalidInput, match="can be read by others"):
        read_token(path)


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def test_so_many_failures_a_minute_are_answered() -> None:
    """Ten failures a minute of an address are answered, then none until the first is a minute old."""
    clock = Clock()
    limit = FailureLimit(clock)
    for _ in range(FAILURES):
        assert limit.failed("10.0.0.1") == 0
        clock.now += 1
    assert limit.failed("10.0.0.1") == 50
    assert limit.failed("10.0.0.2") == 0
    clock.now += 49
    assert limit.failed("10.0.0.1") == 1
    clock.now += 1
    assert limit.failed("10.0.0.1") == 0
    assert limit.failed("10.0.0.1") == 1


def test_a_flood_of_addresses_fills_no_memory() -> None:
    """Failures are counted for a bounded number of addresses, those that failed last."""
    limit = FailureLimit(Clock(), most_addresses=100)
    for number in range(1000):
        limit.failed(f"10.0.{number // 256}.{number % 256}")
    assert len(limit) == 100


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.0.0.1:50123", "10.0.0.1"),
        ("ipv6:%5B::1%5D:50123", "::/64"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:50123", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("unix:/tmp/socket", ""),
    ],
)
def test_an_address_is_one_whatever_its_port(peer: str, address: str) -> None:
    """A new connection, or another address of the same IPv6 network, does not begin to count anew."""
    assert address_of(peer) == address


def test_a_digest_is_that_of_the_token() -> None:
    """An operator can make an entry with `printf %s TOKEN | sha256sum`."""
    assert digest_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
