"""The fleet and the lease against a real cluster, as the account and with the Role that `k8s/base` gives them."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from offshelf.errors import PermissionDenied
from offshelf.services.orchestrator.fleet.kubernetes import KubernetesFleet
from offshelf.services.orchestrator.fleet.kubernetes_api import KubernetesApi
from offshelf.services.orchestrator.fleet.lease import ClusterOwnership, LeaseTimes
from offshelf.services.orchestrator.fleet.outlook import Patience
from offshelf.services.orchestrator.fleet.replicas import Replica, Role, RoleUnavailable
from tests.cluster.installation import ROOT, kubectl, read
from tests.unit.fake_cluster import labels

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.cluster

NAMESPACE: Final = f"fleet-test-{secrets.token_hex(3)}"
"""Another one each time: an old one may take long to go."""
IMAGE: Final = os.environ.get("OFFSHELF_TEST_IMAGE", "localhost/offshelf-sdk:dev")
"""Any image in the node that has Python."""

ALIVE: Final = """
import os, signal, socket
signal.signal(signal.SIGUSR1, lambda *_: os._exit(3))
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
server = socket.create_server(("", 7000))
while True:
    server.accept()
"""
"""A service that answers until it is told to crash."""

CANNOT_START: Final = """
print('{"ready": false, "error": "The weights of hog cannot be had.", "kind": "Unavailable"}'); raise SystemExit(2)
"""
TOO_LARGE: Final = "block = bytearray(1 << 30)"

IMPATIENT: Final = Patience(trouble=0.5, creation=2, hopeless=6, start=6, tick=0.2, listing=0.5, verdict=10)
HOG: Final = Role("extractor", "hog")


@pytest.fixture(scope="module")
def account(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of the orchestrator's service account, which may do what its Role says and nothing else."""
    del cluster
    kubectl("create", "namespace", NAMESPACE)
    try:
        shipped = list(yaml.safe_load_all((ROOT / "k8s/base/orchestrator.yaml").read_text()))
        for manifest in shipped:
            if manifest["kind"] in {"ServiceAccount", "Role", "RoleBinding"}:
                apply(manifest)
        yield kubeconfig(tmp_path_factory.mktemp("account") / "kubeconfig", "orchestrator")
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(autouse=True)
def _cleared(account: Path) -> Iterator[None]:
    """Leave nothing to the next test."""
    del account
    yield
    kubectl("delete", "deployments,secrets,resourcequotas", "--namespace", NAMESPACE, "--all", "--wait=false")
    kubectl("delete", "pods", "--namespace", NAMESPACE, "--all", "--grace-period=0", "--force")


def kubeconfig(path: Path, user: str) -> Path:
    """Write a kubeconfig for a service account."""
    admin = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "--output", "json"))
    token = kubectl("create", "token", user, "--namespace", NAMESPACE).strip()
    admin["users"][0]["user"] = {"token": token}
    path.write_text(json.dumps(admin))
    path.chmod(0o600)
    return path


def apply(manifest: dict[str, Any]) -> None:
    """Make or change an object of the namespace."""
    kubectl("apply", "--namespace", NAMESPACE, "--filename", "-", give=json.dumps(manifest))


def deploy(name: str, program: str = ALIVE, *, container: dict[str, Any] | None = None, **pod: Any) -> None:
    """Apply a Deployment without replicas."""
    ours = {"app.kubernetes.io/part-of": "offshelf", **labels(name)}
    main = {
        "name": name.partition("-")[0],
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", program],
        "ports": [{"name": "grpc", "containerPort": 7000}],
        "readinessProbe": {"tcpSocket": {"port": 7000}, "periodSeconds": 1},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}},
        **(container or {}),
    }
    template = {
        "metadata": {"labels": ours},
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 5,
            "containers": [main],
            **pod,
        },
    }
    specification = {"replicas": 0, "selector": {"matchLabels": ours}, "template": template}
    metadata = {"name": name, "labels": ours}
    apply({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": specification})


@asynccontextmanager
async def fleet_of(
    account: Path, *, patience: Patience = IMPATIENT, idle: float = 60
) -> AsyncIterator[KubernetesFleet]:
    """Run a fleet as the orchestrator's account."""
    api = await asyncio.to_thread(KubernetesApi.connect, NAMESPACE, account)
    fleet = KubernetesFleet(api, max_replicas=3, idle_seconds=idle, patience=patience)
    fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()
        await api.close()


async def leased(fleet: KubernetesFleet, role: Role, seconds: float = 60) -> Replica:
    """Lease a replica and give it back."""
    async with asyncio.timeout(seconds), fleet.pool.lease(role) as replica:
        return replica


async def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something to come true."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  (of whatever kind)
            await asyncio.sleep(0.1)


async def refusal(account: Path, role: Role = HOG, patience: Patience = IMPATIENT) -> tuple[str, list[str]]:
    """Hold a role that does not come up; returns why it was given up, and what was told before."""
    told: list[str] = []
    async with fleet_of(account, patience=patience) as fleet, fleet.hold(role, tell=told.append):
        with pytest.raises(RoleUnavailable) as raised:
            await leased(fleet, role, 90)
    return raised.value.message, told


def replicas(name: str) -> int:
    """How many pods a Deployment should have."""
    return int(read("get", "deployment", name, "--namespace", NAMESPACE)["spec"]["replicas"])


def crash(replica: Replica) -> None:
    """End the process of a replica, as bad work does."""
    pod = replica.name.partition("/")[0]
    end = ("python", "-c", "import os; os.kill(1, 10)")
    kubectl("exec", pod, "--namespace", NAMESPACE, "--", *end, check=False)


async def test_deployments_are_scaled_to_the_work_and_to_zero_after_it(account: Path) -> None:
    """Pods come up when a run needs them, and go when nobody does."""
    deploy("extractor-hog")
    async with fleet_of(account, idle=1) as fleet:
        async with fleet.hold(HOG, units=4):
            await until(lambda: len(fleet.pool.ready(HOG)) == 2)
            addresses = {replica.address for replica in fleet.pool.ready(HOG)}
        await until(lambda: not fleet.pool.ready(HOG))
    assert len(addresses) == 2
    assert all(address.endswith(":7000") for address in addresses)
    assert replicas("extractor-hog") == 0


async def test_the_next_orchestrator_uses_the_pods_of_the_last(account: Path) -> None:
    """Restarting the orchestrator stops no pod and starts none."""
    deploy("extractor-hog")
    async with fleet_of(account) as fleet, fleet.hold(HOG, units=4):
        await until(lambda: len(fleet.pool.ready(HOG)) == 2)
        first = set(fleet.pool.ready(HOG))
    async with fleet_of(account) as fleet, fleet.hold(HOG):
        await until(lambda: set(fleet.pool.ready(HOG)) == first)
    assert replicas("extractor-hog") == 2


async def test_a_deleted_pod_is_not_blamed_on_its_work_and_a_crash_is(account: Path) -> None:
    """Taking a pod away costs a unit nothing but time; a unit that ends its process is found out."""
    deploy("extractor-hog")
    async with fleet_of(account) as fleet, fleet.hold(HOG):
        first = await leased(fleet, HOG)
        pod = first.name.partition("/")[0]
        await asyncio.to_thread(kubectl, "delete", "pod", pod, "--namespace", NAMESPACE, "--wait=false")
        assert not await fleet.blames(first)

        second = await leased(fleet, HOG)
        assert second.name != first.name
        await asyncio.to_thread(crash, second)
        assert await fleet.blames(second)

        third = await leased(fleet, HOG)
        assert third.name == second.name[:-1] + "1", "the same pod, another process"
        assert third.address == second.address


async def test_a_pod_that_crashes_again_is_made_anew(account: Path) -> None:
    """Work that ends its process twice has a new pod, and does not wait until the cluster starts the old one again."""
    deploy("extractor-hog")
    patience = Patience(trouble=0.5, tick=0.2, listing=0.5)
    lost: list[str] = []
    async with fleet_of(account, patience=patience) as fleet, fleet.hold(HOG):
        for _ in range(2):
            async with asyncio.timeout(60), fleet.pool.lease(HOG) as replica:
                await asyncio.to_thread(crash, replica)
                assert await fleet.blames(replica)
                lost.append(replica.name)
        third = await leased(fleet, HOG)
    assert lost[1] == lost[0][:-1] + "1", "the first time, the cluster does not wait"
    # In the old pod the process would be the third, and there ten seconds later.
    assert third.name.partition("/")[0] != lost[1].partition("/")[0]
    assert third.name.endswith("/0")
    assert replicas("extractor-hog") == 1


class CutLine:
    """A way to the API server that can be cut."""

    def __init__(self, server: str) -> None:
        address = urlsplit(server)
        self.host, self.port = address.hostname, address.port or 443
        self._lines: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._own_port = 0

    async def mend(self) -> int:
        """Let connections through; returns the port to use."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", self._own_port)
        self._own_port = int(self._server.sockets[0].getsockname()[1])
        return self._own_port

    async def cut(self) -> None:
        """End all connections, and take no more."""
        assert self._server
        self._server.close()
        for line in self._lines:
            line.transport.abort()
        self._lines.clear()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
        self._lines |= {writer, far_writer}
        for source, target in ((reader, far_writer), (far_reader, writer)):
            pump = asyncio.create_task(self._pump(source, target))
            self._pumps.add(pump)
            pump.add_done_callback(self._pumps.discard)

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()


async def test_work_goes_on_while_the_api_server_is_away(account: Path, tmp_path: Path) -> None:
    """An outage of the API stops no work; what happened meanwhile is found out after it."""
    deploy("extractor-hog")
    through = json.loads(await asyncio.to_thread(account.read_text))
    cluster = through["clusters"][0]["cluster"]
    line = CutLine(cluster["server"])
    cluster |= {"server": f"https://127.0.0.1:{await line.mend()}", "tls-server-name": line.host}
    path = tmp_path / "kubeconfig"
    await asyncio.to_thread(path.write_text, json.dumps(through))
    async with fleet_of(path) as fleet, fleet.hold(HOG):
        first = await leased(fleet, HOG)
        await line.cut()
        await until(lambda: fleet._watch.away is not None)
        assert await leased(fleet, HOG) == first
        pod = first.name.partition("/")[0]
        await asyncio.to_thread(kubectl, "delete", "pod", pod, "--namespace", NAMESPACE)
        asked = asyncio.create_task(fleet.blames(first))
        await asyncio.sleep(0)
        await line.mend()
        assert not await asked
        await until(lambda: bool(fleet.pool.ready(HOG)))
        assert first not in fleet.pool.ready(HOG)
    await line.cut()


async def test_an_image_that_is_not_there_is_said(account: Path) -> None:
    """The message names the Deployment, the image, and where to look."""
    deploy("extractor-hog", container={"image": "registry.invalid/offshelf-extractor:1"})
    reason, told = await refusal(account)
    assert reason.startswith("extractor-hog: the image registry.invalid/offshelf-extractor:1 cannot be pulled (")
    assert reason in told

    deploy("extractor-hog", container={"image": "localhost/nowhere:1", "imagePullPolicy": "Never"})
    assert "localhost/nowhere:1 is not on the node and may not be pulled" in (await refusal(account))[0]


async def test_a_full_cluster_is_said(account: Path) -> None:
    """What does not fit is given up after its time, with the scheduler's reason."""
    deploy("extractor-hog", container={"resources": {"requests": {"cpu": "1000"}}})
    reason, told = await refusal(account)
    assert reason.startswith("no room in the cluster for extractor-hog (")
    assert "Insufficient cpu" in reason
    assert reason in told


async def test_a_missing_secret_is_said_and_mended(account: Path) -> None:
    """After the secret was made, the next run has the extractor, without a restart of anything."""
    deploy("extractor-hog", container={"envFrom": [{"secretRef": {"name": "offshelf-store"}}]})
    reason, _ = await refusal(account)
    # While its own watch of secrets has yet to begin, the node says only that it is a secret.
    assert re.fullmatch(
        rf"extractor-hog: the secret offshelf-store (is missing in the namespace {NAMESPACE}|"
        rf"may be missing in the namespace {NAMESPACE} \(failed to sync secret cache: .*\))"
        r"; make secrets OVERLAY=\.\.\. makes it, or says what belongs in it\.",
        reason,
    )
    data = {"KEY": base64.b64encode(b"value").decode()}
    apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "offshelf-store"}, "data": data})
    patient = Patience(hopeless=60)
    async with fleet_of(account, patience=patient) as fleet, fleet.hold(HOG):
        await leased(fleet, HOG)


async def test_a_missing_certificate_is_named(account: Path) -> None:
    """A volume that cannot be mounted is found although only an event tells of it."""
    volume = {"name": "tls", "secret": {"secretName": "offshelf-tls-extractor"}}
    mount = {"name": "tls", "mountPath": "/etc/offshelf/tls"}
    deploy("extractor-hog", container={"volumeMounts": [mount]}, volumes=[volume])
    reason, _ = await refusal(account)
    assert "secret offshelf-tls-extractor" in reason
    assert f"kubectl describe pod -n {NAMESPACE} extractor-hog-" in reason


async def test_a_service_that_cannot_start_says_why(account: Path) -> None:
    """The reason that the process gave itself reaches the run."""
    deploy("extractor-hog", CANNOT_START)
    reason, _ = await refusal(account)
    assert reason == "extractor-hog cannot start: The weights of hog cannot be had."


async def test_too_little_memory_is_said(account: Path) -> None:
    """A container that is killed for its memory says which limit to raise."""
    deploy("extractor-hog", TOO_LARGE, container={"resources": {"limits": {"memory": "64Mi"}}})
    reason, _ = await refusal(account)
    assert reason == ("extractor-hog: ran out of memory (its limit is 64Mi); raise the memory limit of the Deployment.")


async def test_a_quota_is_said(account: Path) -> None:
    """A namespace that allows no more pods is found although there is no pod to ask."""
    deploy("extractor-hog")
    quota = {"hard": {"pods": "0"}}
    apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": quota})
    # It forbids nothing before the cluster has counted once.
    await until(lambda: "used" in read("get", "quota", "none", "--namespace", NAMESPACE).get("status", {}))
    patience = Patience(trouble=0.5, start=8, tick=0.2, listing=0.5)
    reason, _ = await refusal(account, patience=patience)
    assert "extractor-hog: the namespace's quota allows no more pods" in reason


async def test_an_account_without_the_role_is_told_so(account: Path, tmp_path: Path) -> None:
    """An installation whose Role is missing says so, instead of waiting."""
    del account
    nobody = kubeconfig(tmp_path / "kubeconfig", "default")
    reason, _ = await refusal(nobody)
    assert "forbidden" in reason
    assert "make deploy OVERLAY=" in reason
    api = await asyncio.to_thread(KubernetesApi.connect, NAMESPACE, nobody)
    try:
        with pytest.raises(PermissionDenied, match="leases"):
            await ClusterOwnership.acquire(api, "a")
    finally:
        await api.close()


async def test_one_orchestrator_at_a_time_has_the_lease(account: Path) -> None:
    """A second orchestrator waits while the first renews, and starts when it is gone."""
    deploy("orchestrator-holder")  # any pod will do as the holder
    kubectl("scale", "deployment/orchestrator-holder", "--replicas=1", "--namespace", NAMESPACE)
    await until(lambda: bool(pods()))
    [holder] = pods()
    times = LeaseTimes(duration=3, renewal=0.5, look=0.2)
    api = await asyncio.to_thread(KubernetesApi.connect, NAMESPACE, account)
    try:
        first = await ClusterOwnership.acquire(api, holder, times=times)
        waiting = asyncio.create_task(ClusterOwnership.acquire(api, "other", times=times))
        done, _ = await asyncio.wait({waiting}, timeout=5)
        assert not done, "longer than it would last without being renewed"
        await first.release()
        async with asyncio.timeout(10):
            second = await waiting
        assert second.epoch == first.epoch + 1

        # "other" is no pod, so that it counts as gone.
        third = await ClusterOwnership.acquire(api, holder, times=times)
        assert third.epoch == second.epoch + 1
        await third.release()
        await second.release()
    finally:
        await api.close()


def pods() -> list[str]:
    """Names of the pods of the namespace."""
    items = read("get", "pods", "--namespace", NAMESPACE)["items"]
    return [item["metadata"]["name"] for item in items if not item["metadata"].get("deletionTimestamp")]
