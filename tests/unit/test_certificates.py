"""Certificates and their authority, as `offshelf certs` makes them."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import ssl
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from offshelf import certificates, cli, errors
from offshelf.certificate_authority import names_in
from offshelf.reloading import Reloaded

if TYPE_CHECKING:
    from pathlib import Path

NOW = dt.datetime(2027, 5, 6, 7, 8, 9, tzinfo=dt.UTC)


def certificate(folder: Path, service: str) -> x509.Certificate:
    """Read the certificate of a service."""
    return x509.load_pem_x509_certificate((folder / service / "tls.crt").read_bytes())


def names(folder: Path, service: str) -> set[str]:
    """Give all names and addresses of a certificate."""
    alternative = certificate(folder, service).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = alternative.get_values_for_type(x509.IPAddress)
    return {*alternative.get_values_for_type(x509.DNSName), *(str(address) for address in addresses)}


def believes(client: Path, server: Path) -> bool:
    """Tell whether one service takes the other's certificate for that of its authority; Python's TLS decides."""
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_verify_locations(client / "ca.crt")
    theirs.load_cert_chain(server / "tls.crt", server / "tls.key")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [ours.wrap_bio(back, there, server_hostname=server.name), theirs.wrap_bio(there, back, server_side=True)]
    try:
        for end in (*ends, *ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError:
        return False
    return ends[0].getpeercert() is not None


def test_each_service_has_a_certificate_in_its_name(tmp_path: Path) -> None:
    """A service is known by its name and its names in the cluster; only doors have the names that users use."""
    issued = certificates.issue(
        tmp_path, namespace="ns", hosts=["10.1.2.3", "off.example.org", "off.example.org"], now=NOW
    )
    assert issued.new_authority
    assert not issued.previous_trusted
    assert names(tmp_path, "stats") == {"stats", "stats.ns", "stats.ns.svc", "stats.ns.svc.cluster.local"}
    assert names(tmp_path, "orchestrator") == {
        *(f"orchestrator{suffix}" for suffix in ("", ".ns", ".ns.svc", ".ns.svc.cluster.local")),
        *("localhost", "127.0.0.1", "::1", "10.1.2.3", "off.example.org"),
    }
    for service in certificates.SERVICES:
        found = certificate(tmp_path, service)
        assert found.not_valid_before_utc == NOW - dt.timedelta(hours=1)
        assert found.not_valid_after_utc == NOW + dt.timedelta(days=365) == issued.ends
        usage = found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        assert stat.S_IMODE((tmp_path / service / "tls.key").stat().st_mode) == 0o600
        assert sorted(path.name for path in (tmp_path / service).iterdir()) == ["ca.crt", "tls.crt", "tls.key"]
    assert stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700


def test_renewing_keeps_the_authority(tmp_path: Path) -> None:
    """A second call makes new certificates by the same authority: who believed the old ones believes the new ones."""
    certificates.issue(tmp_path, now=NOW)
    authority, before = (tmp_path / "ca" / "ca.crt").read_bytes(), certificate(tmp_path, "trainer")
    kept = certificate(tmp_path, "stats")
    issued = certificates.issue(tmp_path, services=["trainer"], days=10, now=NOW + dt.timedelta(days=300))
    assert not issued.new_authority
    assert (tmp_path / "ca" / "ca.crt").read_bytes() == authority == (tmp_path / "trainer" / "ca.crt").read_bytes()
    assert certificate(tmp_path, "trainer").serial_number != before.serial_number
    assert certificate(tmp_path, "stats") == kept
    assert issued.ends == NOW + dt.timedelta(days=310)


def test_renewing_keeps_the_names_that_users_come_by(tmp_path: Path) -> None:
    """Who renews certificates, or exchanges the authority, need not remember the hosts; other hosts replace them."""
    hosts = ["10.1.2.3", "off.example.org"]
    certificates.issue(tmp_path, hosts=hosts, now=NOW)
    first = names_in(tmp_path / "predictor" / "tls.crt")
    assert set(hosts) < set(first)
    certificates.issue(tmp_path, new_authority=True, now=NOW + dt.timedelta(days=1))
    assert names_in(tmp_path / "predictor" / "tls.crt") == first
    certificates.issue(tmp_path, hosts=["new.example.org"], now=NOW + dt.timedelta(days=2))
    assert "off.example.org" not in names_in(tmp_path / "predictor" / "tls.crt")


def test_another_namespace_gets_no_name_of_the_one_before(tmp_path: Path) -> None:
    """Certificates of a second installation from the same folder are not good for the first, and keep users' names."""
    hosts = ["orchestrator.lan", "stats.old.svc", "predictor.svc.example.org", "10.1.2.3"]
    certificates.issue(tmp_path, namespace="old", hosts=hosts, now=NOW)
    certificates.issue(tmp_path, namespace="new", now=NOW)
    assert names(tmp_path, "orchestrator") == {
        *(f"orchestrator{suffix}" for suffix in ("", ".new", ".new.svc", ".new.svc.cluster.local")),
        *("localhost", "127.0.0.1", "::1", "orchestrator.lan", "predictor.svc.example.org", "10.1.2.3"),
    }


def test_services_believe_each_other_while_the_authority_is_exchanged(tmp_path: Path) -> None:
    """Whichever service learns of a new authority first, all believe each other; in the end the old one is out."""
    now = dt.datetime.now(dt.UTC)
    old, new = tmp_path / "old", tmp_path / "new"
    certificates.issue(old, now=now - dt.timedelta(days=1))
    subprocess.run(["cp", "-r", str(old), str(new)], check=True)
    issued = certificates.issue(new, new_authority=True, now=now - certificates.HANDOVER)
    assert issued.previous_trusted
    assert believes(old / "stats", new / "trainer")
    assert believes(new / "stats", old / "trainer")
    with pytest.raises(errors.Conflict, match="exchanged a moment ago"):
        certificates.issue(new, new_authority=True, now=now - certificates.HANDOVER / 2)
    assert certificates.issue(new, now=now - certificates.HANDOVER / 2).previous_trusted
    assert not certificates.issue(new, now=now).previous_trusted
    assert believes(new / "stats", new / "trainer")
    assert not believes(new / "stats", old / "trainer")
    assert not believes(old / "stats", new / "trainer")


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    """Near the end of an authority certificates end with it; after it, the operator is told to make another."""
    certificates.issue(tmp_path, now=NOW)
    end = NOW + dt.timedelta(days=3650)
    assert certificates.issue(tmp_path, now=end - dt.timedelta(days=1)).ends == end
    with pytest.raises(errors.Conflict, match=r"has expired\. Make another: --new-authority"):
        certificates.issue(tmp_path, now=end)


def test_an_authority_that_has_expired_is_replaced(tmp_path: Path) -> None:
    """The advice to make another authority works, also years later and after an exchange that was not completed."""
    now = dt.datetime.now(dt.UTC)
    long_ago = now - dt.timedelta(days=4000)
    certificates.issue(tmp_path, now=long_ago - dt.timedelta(days=1))
    certificates.issue(tmp_path, new_authority=True, now=long_ago)
    issued = certificates.issue(tmp_path, new_authority=True, now=now)
    assert issued.new_authority
    assert not issued.previous_trusted
    assert sorted(path.name for path in (tmp_path / "ca").iterdir()) == ["ca.crt", "ca.key"]
    assert believes(tmp_path / "stats", tmp_path / "trainer")


def test_an_authority_whose_key_is_kept_elsewhere_is_not_replaced(tmp_path: Path) -> None:
    """Who keeps the key away from the folder is asked for it, instead of getting an authority that nobody believes."""
    certificates.issue(tmp_path, now=NOW)
    authority = (tmp_path / "ca" / "ca.crt").read_bytes()
    (tmp_path / "ca" / "ca.key").unlink()
    with pytest.raises(errors.InvalidInput, match=r"put ca\.key there"):
        certificates.issue(tmp_path, now=NOW)
    assert (tmp_path / "ca" / "ca.crt").read_bytes() == authority
    assert certificates.issue(tmp_path, new_authority=True, now=NOW).new_authority


@pytest.mark.parametrize("host", ["orchestrator", "Stats", "a b", "", "https://x", "x:50051", "-x", "x..y"])
def test_a_host_that_cannot_be_one_is_refused(tmp_path: Path, host: str) -> None:
    """A door never gets the name of another service, and a typing error is found before anything is made."""
    with pytest.raises(errors.InvalidInput):
        certificates.issue(tmp_path / "certs", hosts=[host])
    assert not (tmp_path / "certs").exists()


@pytest.mark.parametrize("host", ["*.example.org", "node-1", "2001:db8::1", "a.b.c.example"])
def test_a_host_of_any_kind_is_taken(tmp_path: Path, host: str) -> None:
    """Names, names for many and addresses of both kinds can be given."""
    certificates.issue(tmp_path, hosts=[host])
    found = names(tmp_path, "predictor")
    assert host in found or str(ipaddress.ip_address(host)) in found


@pytest.mark.parametrize("broken", ["ca.key", "ca.crt"])
def test_an_authority_that_cannot_be_used_is_not_replaced(tmp_path: Path, broken: str) -> None:
    """A damaged authority is an error, and never silently another authority that nobody believes."""
    certificates.issue(tmp_path, now=NOW)
    before = (tmp_path / "stats" / "tls.crt").read_bytes()
    (tmp_path / "ca" / broken).write_text("-----BEGIN NOTHING-----")
    with pytest.raises(errors.InvalidInput, match="does not hold an authority"):
        certificates.issue(tmp_path, now=NOW)
    certificates.issue(tmp_path / "other", now=NOW)
    for name in ("ca.key", "ca.crt"):
        (tmp_path / "ca" / name).write_bytes((tmp_path / "other" / "ca" / name).read_bytes())
    (tmp_path / "ca" / "ca.crt").write_bytes((tmp_path / "other" / "stats" / "tls.crt").read_bytes())
    with pytest.raises(errors.InvalidInput, match="do not belong together"):
        certificates.issue(tmp_path, now=NOW)
    assert (tmp_path / "stats" / "tls.crt").read_bytes() == before


def test_the_command_line_says_how_to_put_them_in_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`offshelf certs` prints the commands for the cluster, and what to do after an exchange of the authority."""
    folder = str(tmp_path / "with space")
    assert cli.main(["certs", folder, "--namespace", "ns", "--host", "10.1.2.3"]) == 0
    printed = capfd.readouterr().out
    assert "for service in orchestrator predictor extractor trainer stats; do" in printed
    assert f"--from-file '{folder}'/\"$service\"" in printed
    assert "PRIVATE KEY" not in printed
    assert cli.main(["certs", folder, "--new-authority"]) == 0
    assert "Run this again 10 minutes after" in capfd.readouterr().out
    assert cli.main(["certs", folder, "--new-authority", "--service", "stats"]) == 2


def test_without_the_library_the_command_says_what_to_install(tmp_path: Path) -> None:
    """An installation without the extra says which one makes certificates."""
    program = (
        "import sys; sys.modules['cryptography'] = None; from offshelf.cli import main; "
        f"sys.exit(main(['certs', {str(tmp_path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'offshelf[certs]'" in done.stderr


def test_a_file_is_read_again_only_when_it_changes(tmp_path: Path) -> None:
    """What a process holds in memory follows its files, and costs next to nothing while they stay."""
    path = tmp_path / "file"
    path.write_text("1")
    read: list[str] = []

    def number() -> int:
        read.append(path.read_text())
        try:
            return int(read[-1])
        except ValueError:
            raise errors.InvalidInput("no number") from None

    reloaded = Reloaded(number, path, clock=lambda: 0.0)
    assert [reloaded.value() for _ in range(3)] == [1, 1, 1]
    path.write_text("22")
    assert [reloaded.value() for _ in range(3)] == [22, 22, 22]
    path.write_text("three")
    assert [reloaded.value() for _ in range(3)] == [22, 22, 22]
    path.write_text("4444")
    assert reloaded.value() == 4444
    assert read == ["1", "22", "three", "4444"]


def test_files_that_could_not_be_used_are_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A moment's trouble with reading a changed file does not keep a process on the old one; the log says it once."""
    path = tmp_path / "file"
    path.write_text("1")
    now, healthy = 0.0, True

    def number() -> int:
        if not healthy:
            raise errors.InvalidInput("the disk did not answer")
        return int(path.read_text())

    reloaded = Reloaded(number, path, clock=lambda: now)
    path.write_text("22")
    healthy = False
    assert reloaded.value() == 1
    now = 10.0
    assert reloaded.value() == 1
    healthy = True
    assert reloaded.value() == 1
    now = 20.0
    assert reloaded.value() == 22
    assert len([record for record in caplog.records if "cannot be used" in record.message]) == 1


def test_a_file_whose_rights_change_is_read_again(tmp_path: Path) -> None:
    """A key file that was refused since others could read it is taken once it is closed to them, and nothing else."""
    path = tmp_path / "file"
    path.write_text("1")
    path.chmod(0o600)

    def mode() -> int:
        return stat.S_IMODE(path.stat().st_mode)

    reloaded = Reloaded(mode, path, clock=lambda: 0.0)
    assert reloaded.value() == 0o600
    path.chmod(0o640)
    assert reloaded.value() == 0o640
