"""k8s/scripts, as `make secrets`, `deploy` and `undeploy` run them, before a kubectl whose cluster is a folder."""

from __future__ import annotations

import json
import os
import pty
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from offshelf.certificate_authority import names_in
from tests.unit.compositions import K8S, compose

if TYPE_CHECKING:
    from collections.abc import Callable

KEYS = {"OFFSHELF_S3_ACCESS_KEY": "reader", "OFFSHELF_S3_SECRET_KEY": "s3-secret"}
SERVICES = ("extractor", "orchestrator", "predictor", "stats", "trainer")


@dataclass(frozen=True)
class Desk:
    """Where somebody types `make` before an empty cluster."""

    folder: Path

    @property
    def state(self) -> Path:
        """The cluster."""
        return self.folder / "cluster"

    @property
    def calls(self) -> list[str]:
        """What kubectl was asked."""
        return (self.state / "calls").read_text().splitlines()

    @property
    def secrets(self) -> dict[str, dict[str, str]]:
        """Secrets of the cluster."""
        return {path.stem: json.loads(path.read_text()) for path in (self.state / "secrets").iterdir()}

    def render(self, name: str, also: str = "") -> None:
        """Say what kubectl renders, whichever overlay is asked for."""
        (self.state / "manifests.yaml").write_text(compose(name).text + also)

    def run(self, script: str, answer: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script; with `answer` at a terminal, where that is typed."""
        here = {name: value for name, value in os.environ.items() if not name.startswith("OFFSHELF_")}
        here |= {"PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "KUBECTL_STATE": str(self.state)}
        terminal, stdin = pty.openpty()
        try:
            os.write(terminal, f"{answer}\n".encode())
            return subprocess.run(
                [K8S / f"scripts/{script}.sh", "local"],
                cwd=self.folder,
                env=here | {"OFFSHELF": str(self.folder / "bin/offshelf")} | environment,
                stdin=subprocess.DEVNULL if answer is None else stdin,
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            os.close(terminal)
            os.close(stdin)


def _executable(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _set_up(folder: Path) -> Desk:
    for name in ("bin", "cluster/secrets", "cluster/namespaces"):
        (folder / name).mkdir(parents=True)
    fake = Path(__file__).with_name("fake_kubectl.py")
    _executable(folder / "bin/kubectl", f'#!/bin/sh\nexec {sys.executable} -I -S {fake} "$@"\n')
    _executable(folder / "bin/offshelf", f'#!/bin/sh\nexec {sys.executable} -m offshelf.cli "$@"\n')
    desk = Desk(folder)
    desk.render("overlays/local")
    return desk


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """An empty cluster, and the two programs that scripts call."""
    return _set_up(tmp_path / "desk")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """The same after `make secrets`; not to be changed."""
    desk = _set_up(tmp_path_factory.mktemp("made") / "desk")
    done = desk.run("secrets", **KEYS)
    assert done.returncode == 0, done.stderr
    return desk


@pytest.fixture
def installed(made: Desk, tmp_path: Path) -> Desk:
    """A copy of that of one's own."""
    return Desk(shutil.copytree(made.folder, tmp_path / "desk"))


# ----------------------------------------------------------------------------------------------------- make secrets


def test_secrets_are_made_from_nothing(installed: Desk) -> None:
    """One command makes the namespace and all that pods refer to: keys of the store, users, a certificate each."""
    assert installed.secrets.keys() == {
        "offshelf-store",
        "offshelf-users",
        *(f"offshelf-tls-{one}" for one in SERVICES),
    }
    assert installed.secrets["offshelf-store"] == KEYS
    assert json.loads(installed.secrets["offshelf-users"]["users.json"])
    for service in SERVICES:
        assert installed.secrets[f"offshelf-tls-{service}"].keys() == {"tls.crt", "tls.key", "ca.crt"}
    assert (installed.state / "namespaces/offshelf").exists()


def test_secrets_are_shown_to_nobody(installed: Desk) -> None:
    """No key and no token is on a command line, and what is kept of them only its owner can read."""
    token = (installed.folder / "offshelf-secrets/admin.token").read_text().split()[0]
    asked = "\n".join(installed.calls)
    assert token not in asked
    assert KEYS["OFFSHELF_S3_SECRET_KEY"] not in asked
    for path in (installed.folder / "offshelf-secrets").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077 or path.suffix == ".crt"


def test_secrets_that_there_are_stay_as_they_are(installed: Desk) -> None:
    """Run again, it makes what is missing from the same files, and changes nothing."""
    before = installed.secrets
    (installed.state / "secrets/offshelf-users.json").unlink()
    (installed.state / "secrets/offshelf-tls-stats.json").unlink()
    assert installed.run("secrets").returncode == 0
    assert installed.secrets == before


def test_secrets_without_keys_of_the_store(desk: Desk) -> None:
    """Without keys all the others are made, and the one line that is left says what to set."""
    done = desk.run("secrets")
    assert done.returncode == 2
    assert desk.secrets.keys() == {"offshelf-users", *(f"offshelf-tls-{one}" for one in SERVICES)}
    [_, line] = done.stderr.splitlines()
    assert "offshelf-store: set OFFSHELF_S3_ACCESS_KEY and OFFSHELF_S3_SECRET_KEY" in line


def test_secrets_whose_keys_nobody_typed(desk: Desk) -> None:
    """Whoever leaves the question for the keys, by Ctrl-D, gets no Secret without keys, and is told what to set."""
    done = desk.run("secrets", "\x04")
    assert done.returncode == 2
    assert "offshelf-store" not in desk.secrets
    assert "offshelf-store: set OFFSHELF_S3_ACCESS_KEY and OFFSHELF_S3_SECRET_KEY" in done.stderr


def test_secrets_that_only_the_platform_team_can_make(desk: Desk) -> None:
    """Whatever cannot be made is listed at the end, all of it, with what it has to hold; the rest has been made."""
    tls = "\n---\n".join(
        document for document in compose("overlays/local").text.split("---\n") if "kind: Deployment" in document
    )
    pull = "---\nkind: Deployment\nspec:\n  imagePullSecrets:\n  - name: registry\n"
    desk.render("components/store-keys-per-service", f"---\n{tls}{pull}")
    done = desk.run("secrets", **KEYS)
    assert done.returncode == 2
    assert "offshelf-users" in desk.secrets
    assert "offshelf-tls-trainer" in desk.secrets
    listed = {line.split(":")[0].strip() for line in done.stderr.splitlines()[1:]}
    assert listed == {"registry", *(f"offshelf-store-{service}" for service in SERVICES)}
    assert "OFFSHELF_S3_ACCESS_KEY and OFFSHELF_S3_SECRET_KEY, with the rights of stats" in done.stderr


def test_secrets_behind_a_mesh(desk: Desk) -> None:
    """The token by which services know each other is made too, and is long enough that nobody guesses it."""
    desk.render("base", "---\nkind: Deployment\nspec:\n  secretName: offshelf-token\n")
    assert desk.run("secrets").returncode == 0
    assert len(desk.secrets["offshelf-token"]["token"]) == 64


def test_secrets_of_a_store_of_its_own(desk: Desk) -> None:
    """SeaweedFS and the services get the same keys, which nobody had to think of."""
    desk.render("overlays/trial")
    assert desk.run("secrets").returncode == 0
    [identity] = json.loads(desk.secrets["offshelf-seaweedfs"]["s3.json"])["identities"]
    assert identity["credentials"] == [
        {
            "accessKey": desk.secrets["offshelf-store"]["OFFSHELF_S3_ACCESS_KEY"],
            "secretKey": desk.secrets["offshelf-store"]["OFFSHELF_S3_SECRET_KEY"],
        }
    ]


# ----------------------------------------------------------------------------------------------------- make deploy


def test_deploying_without_secrets(desk: Desk) -> None:
    """Each Secret that is missing is named, with the command that makes it, and nothing is applied."""
    (desk.state / "secrets/offshelf-store.json").write_text("{}")
    done = desk.run("deploy")
    assert done.returncode == 2
    assert [line.split()[2] for line in done.stderr.splitlines()] == [
        *(f"offshelf-tls-{one}" for one in SERVICES),
        "offshelf-users",
    ]
    assert all("make secrets OVERLAY=local" in line for line in done.stderr.splitlines())
    assert not (desk.state / "applied.yaml").exists()


def test_deploying_tells_how_to_use_it(installed: Desk) -> None:
    """The last line can be pasted: it has the server's address and where token and authority lie, and no token."""
    done = installed.run("deploy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].strip() == (
        "OFFSHELF_TOKEN_FILE=offshelf-secrets/admin.token offshelf run FOLDER --server 10.0.0.5:30700"
        " --ca offshelf-secrets/certs/orchestrator/ca.crt"
    )
    assert (installed.folder / "offshelf-secrets/admin.token").read_text().split()[0] not in done.stdout


def test_deploying_names_the_server_as_certificates_do(desk: Desk) -> None:
    """Where certificates were made for a name, the line has that name, at which the server can be trusted."""
    (desk.folder / "files.example.com").touch()
    assert desk.run("secrets", HOSTS="*.example.com shelf.example.com 10.1.2.3", **KEYS).returncode == 0
    names = names_in(desk.folder / "offshelf-secrets/certs/orchestrator/tls.crt")
    assert names[-3:] == ["*.example.com", "shelf.example.com", "10.1.2.3"]
    assert "--server shelf.example.com:30700 " in desk.run("deploy").stdout


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        pytest.param("", "Users reach it at 203.0.113.9:7000, by a name that its certificate has.", id="of the nodes"),
        pytest.param("*.one.org", "Users reach it at 203.0.113.9:7000, by a name that its certificate has.", id="any"),
        pytest.param("*.one.org a.one.org", "--server a.one.org:7000 ", id="of its own"),
    ],
)
def test_deploying_with_a_load_balancer(desk: Desk, hosts: str, expected: str) -> None:
    """A node is not named where a load balancer listens, nor a command shown that could not trust the server."""
    behind = compose("overlays/local").text.replace("type: NodePort", "type: LoadBalancer")
    (desk.state / "manifests.yaml").write_text(behind)
    (desk.state / "load-balancer").write_text("203.0.113.9")
    assert desk.run("secrets", HOSTS=hosts, **KEYS).returncode == 0
    assert expected in desk.run("deploy").stdout.splitlines()[-1]


def test_deploying_names_no_host_that_certificates_have_no_more(desk: Desk) -> None:
    """Certificates made anew for the nodes are told as such, whatever those before were for."""
    assert desk.run("secrets", HOSTS="shelf.example.com", **KEYS).returncode == 0
    shutil.rmtree(desk.folder / "offshelf-secrets/certs")
    for service in SERVICES:
        (desk.state / f"secrets/offshelf-tls-{service}.json").unlink()
    assert desk.run("secrets").returncode == 0
    assert "--server 10.0.0.5:30700 " in desk.run("deploy").stdout


def test_deploying_without_certificates_of_this_machine(desk: Desk) -> None:
    """With load balancers and cert-manager, what is known is told: the address that the balancer has got, if it has."""
    desk.render("overlays/production")
    for name in ("offshelf-store", "offshelf-users"):
        (desk.state / f"secrets/{name}.json").write_text("{}")
    assert desk.run("deploy").stdout.splitlines()[-1].startswith("Deployed: namespace offshelf")
    (desk.state / "load-balancer").write_text("203.0.113.9")
    assert desk.run("deploy").stdout.splitlines()[-1].startswith("Users reach it at 203.0.113.9:7000")


def test_deploying_with_the_folder_of_another_installation(desk: Desk) -> None:
    """Name, token and authority of one installation are not told as those of another that was deployed after it."""
    assert desk.run("secrets", HOSTS="shelf.example.com", **KEYS).returncode == 0
    desk.render("overlays/production")
    (desk.state / "load-balancer").write_text("203.0.113.9")
    tls = desk.state / "secrets/offshelf-tls-orchestrator.json"
    tls.write_text(json.dumps({"ca.crt": "of cert-manager"}))
    asked = len(desk.calls)
    assert desk.run("deploy").stdout.splitlines()[-1].startswith("Users reach it at 203.0.113.9:7000")
    assert any(call.startswith("get secret offshelf-tls-orchestrator ") for call in desk.calls[asked:])


def test_deploying_makes_jobs_anew(desk: Desk) -> None:
    """A newer image of the store can be deployed, though a Job that is there cannot be changed."""
    desk.render("overlays/trial")
    assert desk.run("secrets").returncode == 0
    assert desk.run("deploy").returncode == 0
    [deleted] = [number for number, call in enumerate(desk.calls) if call.startswith("delete") and "jobs.yaml" in call]
    [applied] = [number for number, call in enumerate(desk.calls) if call.startswith("apply") and "kept.yaml" in call]
    assert deleted < applied


# ----------------------------------------------------------------------------------------------------- make undeploy


def test_undeploying_nothing(desk: Desk) -> None:
    """Where there is no installation, that is said, and nothing is deleted."""
    done = desk.run("undeploy")
    assert done.returncode == 0
    assert "no namespace offshelf" in done.stdout
    assert not any(call.startswith("delete") for call in desk.calls)


def all_stays(desk: Desk) -> bool:
    """Whether workloads are gone and nothing else."""
    assert any(call.startswith("delete --filename") for call in desk.calls)
    return len(desk.secrets) == 7 and (desk.state / "namespaces/offshelf").exists()


def all_is_gone(desk: Desk) -> bool:
    """Whether Secrets and namespace are gone, too."""
    return not desk.secrets and not (desk.state / "namespaces/offshelf").exists()


@pytest.mark.parametrize(
    ("answer", "environment", "expected"),
    [
        pytest.param("n", {}, all_stays, id="no"),
        pytest.param("", {}, all_stays, id="nothing"),
        pytest.param("y", {}, all_is_gone, id="yes"),
        pytest.param(None, {}, all_stays, id="nobody there"),
        pytest.param(None, {"YES": "1"}, all_is_gone, id="YES=1"),
        pytest.param(None, {"YES": "0"}, all_stays, id="YES=0"),
    ],
)
def test_undeploying_asks_before_what_cannot_be_made_again(
    installed: Desk, answer: str | None, environment: dict[str, str], expected: Callable[[Desk], bool]
) -> None:
    """Secrets and volumes go only after a yes, typed or given as YES=1; a script without either keeps them."""
    done = installed.run("undeploy", answer, **environment)
    assert done.returncode == 0, done.stderr
    assert "secret/offshelf-users" in done.stdout
    assert expected(installed)
    if answer is None and not environment:
        assert "make undeploy OVERLAY=local YES=1" in done.stdout
