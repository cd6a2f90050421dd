"""Offshelf on a real cluster, used as a platform team and its users would: make, kubectl, the command line."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parents[2]
NAMESPACE = "offshelf"
STORE_NAMESPACE = "offshelf-store"
SERVICES = ("orchestrator", "trainer", "stats", "predictor", "extractor")
SERVER_PORT, PREDICTOR_PORT, S3_PORT = 30700, 30701, 30900
METRICS_PORT = 7002
_STATES = ("state", "lastState")
BUCKET = "offshelf"


def kubectl(*arguments: str, give: str | None = None, check: bool = True) -> str:
    """Run kubectl and return what it prints."""
    done = subprocess.run(["kubectl", *arguments], input=give, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def read(*arguments: str) -> dict[str, Any]:
    """Read an object, or a list of them, as JSON."""
    found: dict[str, Any] = json.loads(kubectl(*arguments, "--output", "json"))
    return found


def wait_until(what: str, true: Callable[[], object], seconds: float) -> float:
    """Ask again and again until something is true; returns the seconds it took."""
    began = time.monotonic()
    while not true():
        if time.monotonic() - began > seconds:
            raise AssertionError(f"{what}: not within {seconds:.0f} s\n{state()}")
        time.sleep(0.2)
    return time.monotonic() - began


def state() -> str:
    """What stands in the cluster, for the message of a failure."""
    pods = kubectl("get", "pods", "--all-namespaces", "--output", "wide", check=False)
    events = kubectl("get", "events", "--namespace", NAMESPACE, "--sort-by=.lastTimestamp", check=False)
    logs = "\n".join(
        f"-- {name}\n" + kubectl("logs", f"deployment/{name}", "--namespace", NAMESPACE, "--tail=40", check=False)
        for name in ("orchestrator", "predictor", "trainer", "stats")
    )
    return f"{pods}\n{events[-3000:]}\n{logs}"


@dataclass(frozen=True)
class Deployed:
    """An installation that answers."""

    host: str
    folder: Path
    """Certificates, users and the like."""
    token: str = field(repr=False)
    """Of an admin."""
    s3_keys: tuple[str, str] = field(repr=False)

    @property
    def server(self) -> str:
        """HOST:PORT of the orchestrator."""
        return f"{self.host}:{SERVER_PORT}"

    @property
    def authority(self) -> Path:
        """Certificate that clients trust."""
        return self.folder / "certs" / "orchestrator" / "ca.crt"

    @property
    def client_environment(self) -> dict[str, str]:
        """What a user outside the cluster sets."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFSHELF_")}
        return environment | {
            "OFFSHELF_SERVER": self.server,
            "OFFSHELF_TOKEN": self.token,
            "OFFSHELF_CA": str(self.authority),
        }

    @property
    def store_environment(self) -> dict[str, str]:
        """What opens the installation's store from outside."""
        return {
            "OFFSHELF_STORE": f"s3://{BUCKET}?endpoint=http://{self.host}:{S3_PORT}",
            "OFFSHELF_S3_ACCESS_KEY": self.s3_keys[0],
            "OFFSHELF_S3_SECRET_KEY": self.s3_keys[1],
        }

    def set_orchestrator(self, **variables: str) -> None:
        """Give the orchestrator other settings, and wait until the one that has them is ready."""
        pairs = [f"{name}={value}" for name, value in variables.items()]
        kubectl("set", "env", "deployment/orchestrator", *pairs, "--namespace", NAMESPACE)
        kubectl("rollout", "status", "deployment/orchestrator", "--namespace", NAMESPACE, "--timeout=180s")

    def offshelf(
        self, *arguments: object, exit_code: int = 0, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `offshelf ARGUMENTS` as a user outside the cluster, to its end."""
        done = run_offshelf(arguments, {**self.client_environment, **(environment or {})})
        assert done.returncode == exit_code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}\n{state()}"
        return done


def run_offshelf(arguments: tuple[object, ...], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `offshelf ARGUMENTS`."""
    return subprocess.run(
        [sys.executable, "-m", "offshelf.cli", *map(str, arguments)],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def node_address() -> str:
    """Address of a node, at which its NodePorts answer; OFFSHELF_TEST_HOST where they do so elsewhere."""
    if host := os.environ.get("OFFSHELF_TEST_HOST"):
        return host
    addresses = read("get", "nodes")["items"][0]["status"]["addresses"]
    return str(next(each["address"] for each in addresses if each["type"] == "InternalIP"))


def apply_secret(name: str, namespace: str, **entries: str | bytes) -> None:
    """Make or change a secret without its content on a command line."""
    data = {
        key: base64.b64encode(value.encode() if isinstance(value, str) else value).decode()
        for key, value in entries.items()
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "data": data}
    kubectl("apply", "--filename", "-", give=json.dumps(secret))


def last_words(service: str) -> str:
    """Return what the processes of a service's pods said when they ended."""
    selector = f"app.kubernetes.io/name={service}"
    pods = read("get", "pods", "--namespace", NAMESPACE, "--selector", selector)["items"]
    states = [status[when] for pod in pods for status in pod["status"].get("containerStatuses", ()) for when in _STATES]
    return "\n".join(state["terminated"].get("message", "") for state in states if "terminated" in state)


def pods_of(*names: str) -> list[str]:
    """Names of the pods of Deployments."""
    selector = f"app.kubernetes.io/name in ({','.join(names)})"
    found = read("get", "pods", "--namespace", NAMESPACE, "--selector", selector)["items"]
    return [pod["metadata"]["name"] for pod in found if not pod["metadata"].get("deletionTimestamp")]


def figures_of(pod: str) -> dict[str, float]:
    """What a pod tells Prometheus: values by name and labels, as they are written there."""
    page = kubectl("get", "--raw", f"/api/v1/namespaces/{NAMESPACE}/pods/{pod}:{METRICS_PORT}/proxy/metrics")
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def start_s3(weights: Path | None) -> tuple[str, str]:
    """Start the S3 server, make the bucket and put weights where extractors find them; returns the keys."""
    keys = secrets.token_hex(10), secrets.token_hex(20)
    kubectl("create", "namespace", STORE_NAMESPACE, check=False)
    apply_s3_keys(keys)
    kubectl("apply", "--filename", str(ROOT / "tests/cluster/s3.yaml"))
    kubectl("rollout", "status", "deployment/s3", "--namespace", STORE_NAMESPACE, "--timeout=90s")

    from minio import Minio

    client = Minio(
        f"{node_address()}:{S3_PORT}", access_key=keys[0], secret_key=keys[1], secure=False, region="us-east-1"
    )
    for bucket in (BUCKET, "weights"):
        if not client.bucket_exists(bucket):
            client.make_bucket(bucket)
    for file in sorted(weights.iterdir()) if weights else ():
        client.fput_object("weights", file.name, str(file))
    return keys


def apply_s3_keys(keys: tuple[str, str]) -> None:
    """Say which keys the S3 server takes when it starts."""
    apply_secret("s3", STORE_NAMESPACE, auth=f'"{keys[0]},{keys[1]}"')


def change_s3_keys(keys: tuple[str, str]) -> None:
    """Have the S3 server take these keys alone, from now on."""
    apply_s3_keys(keys)
    kubectl("rollout", "restart", "deployment/s3", "--namespace", STORE_NAMESPACE)
    kubectl("rollout", "status", "deployment/s3", "--namespace", STORE_NAMESPACE, "--timeout=90s")


def make_secrets(folder: Path, keys: tuple[str, str]) -> str:
    """Make the secrets of an installation; returns the token of its admin."""
    choices = {"FOLDER": str(folder), "HOSTS": f"{node_address()} localhost 127.0.0.1"}
    make(
        *("secrets", "OVERLAY=local"),
        environment={**choices, "OFFSHELF_S3_ACCESS_KEY": keys[0], "OFFSHELF_S3_SECRET_KEY": keys[1]},
    )
    return (folder / "admin.token").read_text().split()[0]


def apply_certificates(certs: Path) -> None:
    """Put the certificates of all services into their secrets."""
    for service in SERVICES:
        files = {name: (certs / service / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")}
        apply_secret(f"offshelf-tls-{service}", NAMESPACE, **files)


def deploy(folder: Path, weights: Path | None) -> Deployed:
    """Deploy overlays/local with everything it refers to; what an earlier run has left goes first."""
    undeploy()
    keys = start_s3(weights)
    token = make_secrets(folder, keys)
    make("deploy", "OVERLAY=local")
    take_kernels()
    return Deployed(node_address(), folder, token, keys)


def take_kernels() -> None:
    """Have trainers take the OpenBLAS kernels that this process is told to take: they decide last bits of scores."""
    if variables := [f"{name}={value}" for name, value in os.environ.items() if name.startswith("OPENBLAS_")]:
        kubectl("set", "env", "deployment/trainer", *variables, "--namespace", NAMESPACE)


@contextmanager
def faulty_s3(deployed: Deployed, *, fail: float, delay: float) -> Iterator[None]:
    """Have everything that goes to the store go through a proxy that fails a share of the calls and slows down all."""
    del deployed
    code = (ROOT / "tests/integration/faulty_s3.py").read_text()
    command = ["/opt/offshelf/bin/python", "/code/faulty_s3.py", "--upstream", "http://s3-itself:9000"]
    labels = {"app.kubernetes.io/name": "s3-proxy"}
    container = {
        "name": "proxy",
        "image": "localhost/offshelf-sdk:dev",
        "imagePullPolicy": "IfNotPresent",
        "command": [*command, "--port", "9000", "--fail", str(fail), "--delay", str(delay)],
        "ports": [{"name": "s3", "containerPort": 9000}],
        "readinessProbe": {"tcpSocket": {"port": "s3"}, "periodSeconds": 1},
        "volumeMounts": [{"name": "code", "mountPath": "/code"}],
    }
    pod = {"containers": [container], "volumes": [{"name": "code", "configMap": {"name": "s3-proxy"}}]}
    objects = [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "s3-proxy"}, "data": {"faulty_s3.py": code}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "s3-itself"},
            "spec": {"selector": {"app.kubernetes.io/name": "s3"}, "ports": [{"port": 9000, "targetPort": "s3"}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "s3-proxy"},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    ]
    there = ("--namespace", STORE_NAMESPACE)
    kubectl("apply", *there, "--filename", "-", give=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
    kubectl("rollout", "status", "deployment/s3-proxy", *there, "--timeout=60s")
    select_s3("s3-proxy")
    try:
        yield
    finally:
        select_s3("s3")
        kubectl("delete", "deployment/s3-proxy", "service/s3-itself", "configmap/s3-proxy", *there)


def select_s3(name: str) -> None:
    """Say which pods the store's address leads to."""
    patch = {"spec": {"selector": {"app.kubernetes.io/name": name}}}
    kubectl("patch", "service", "s3", "--namespace", STORE_NAMESPACE, "--patch", json.dumps(patch))


def undeploy() -> None:
    """Remove all of it but the namespaces: one that is deleted keeps its name busy until the last of it has gone."""
    make("undeploy", "OVERLAY=local")
    labelled = ("--selector", "app.kubernetes.io/part-of=offshelf", "--namespace", NAMESPACE)
    left = kubectl("get", "deployments,services,configmaps,serviceaccounts,roles,pods", *labelled, "--output", "name")
    assert not left, f"make undeploy left {left}"
    for namespace in (NAMESPACE, STORE_NAMESPACE):
        kinds = "deployments,services,persistentvolumeclaims,leases"
        kubectl("delete", kinds, "--all", "--ignore-not-found", "--namespace", namespace)
        secrets = kubectl("get", "secrets", "--namespace", namespace, "--output", "name").split()
        ours = [name for name in secrets if not name.startswith("secret/default-token-")]
        if ours:
            kubectl("delete", "--namespace", namespace, *ours)


def make(*arguments: str, environment: Mapping[str, str] | None = None) -> str:
    """Run make in the checkout."""
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"make {' '.join(arguments)}\n{done.stdout}\n{done.stderr}\n{state()}"
    return done.stdout
