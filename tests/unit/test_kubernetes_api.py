"""The Kubernetes API through its client: a real HTTP server that answers what a test says."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from offshelf.errors import Conflict, Internal, InvalidInput, NotFound, OffshelfError, PermissionDenied
from offshelf.services.orchestrator.fleet.cluster_api import ClusterUnavailable, WatchExpired
from offshelf.services.orchestrator.fleet.kubernetes_api import KubernetesApi
from tests.unit.fake_cluster import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

POD = {"metadata": {"name": "a", "resourceVersion": "8"}}


class ApiServer(ThreadingHTTPServer):
    """Answers every request with `status` and `answer`; a watch with `lines`, and then nothing more."""

    daemon_threads = True
    status = 200
    answer: Any = None
    lines: tuple[bytes, ...] = ()

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, Any]] = []
        self.stop_watches = threading.Event()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: ApiServer
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.asked.append((self.command, self.path, body))
        if "watch=" in self.path:
            self._watch()
            return
        data = self.server.answer
        data = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_DELETE = do_GET = do_PATCH = do_POST = do_PUT = _answer  # noqa: N815  (names that the base class calls)

    def _watch(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in self.server.lines:
            self.wfile.write(b"%x\r\n%s\n\r\n" % (len(line) + 1, line))
        self.wfile.flush()
        self.server.stop_watches.wait(10)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """A server on a free port."""
    with ApiServer() as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield server
        server.stop_watches.set()
        server.shutdown()
        serving.join()


def kubeconfig(folder: Path, port: int) -> Path:
    """Write a file that leads to the server."""
    path = folder / "kubeconfig"
    here = {"cluster": "c", "user": "u"}
    path.write_text(
        json.dumps(
            {
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "x", "context": here}],
                "current-context": "x",
            }
        )
    )
    return path


@asynccontextmanager
async def connected(folder: Path, port: int) -> AsyncIterator[KubernetesApi]:
    """Connect to the server."""
    api = await asyncio.to_thread(KubernetesApi.connect, "shelf", kubeconfig(folder, port))
    try:
        yield api
    finally:
        await api.close()


async def test_only_what_belongs_to_the_installation_is_looked_at(server: ApiServer, tmp_path: Path) -> None:
    """Other pods of the namespace are none of our business."""
    server.answer = {"metadata": {"resourceVersion": "7"}, "items": [POD]}
    async with connected(tmp_path, server.server_port) as api:
        listing = await api.list_pods()
        await api.list_deployments()
    assert (listing.version, listing.items) == ("7", (POD,))
    selector = "labelSelector=app.kubernetes.io/part-of=offshelf"
    assert [unquote(path) for _, path, _ in server.asked] == [
        f"/api/v1/namespaces/shelf/pods?{selector}",
        f"/apis/apps/v1/namespaces/shelf/deployments?{selector}",
    ]


async def test_scaling_changes_the_number_of_pods_and_nothing_else(server: ApiServer, tmp_path: Path) -> None:
    """What an administrator set in a Deployment stays as it is."""
    server.answer = {}
    async with connected(tmp_path, server.server_port) as api:
        await api.scale("trainer", 3)
    expected = "/apis/apps/v1/namespaces/shelf/deployments/trainer/scale"
    assert server.asked == [("PATCH", expected, {"spec": {"replicas": 3}})]


async def test_only_the_pod_that_was_meant_is_deleted(server: ApiServer, tmp_path: Path) -> None:
    """A pod that has come under the same name since stays, and each has its time to end in order."""
    server.answer = {}
    async with connected(tmp_path, server.server_port) as api:
        await api.delete_pod("trainer-1", "u-1")
    expected = "/api/v1/namespaces/shelf/pods/trainer-1"
    assert server.asked == [("DELETE", expected, {"preconditions": {"uid": "u-1"}})]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, PermissionDenied),
        (403, PermissionDenied),
        (404, NotFound),
        (409, Conflict),
        (422, Internal),
        (429, ClusterUnavailable),
        (500, ClusterUnavailable),
        (503, ClusterUnavailable),
    ],
)
async def test_a_refusal_is_one_of_our_errors_with_the_apis_own_words(
    server: ApiServer, tmp_path: Path, status: int, error: type[OffshelfError]
) -> None:
    """Whoever reads it sees what the API said, on one line."""
    server.status, server.answer = status, {"kind": "Status", "message": "because\nof this.", "code": status}
    async with connected(tmp_path, server.server_port) as api:
        with pytest.raises(error, match=r": because of this\.$"):
            await api.scale("trainer", 1)


async def test_what_is_not_there_is_none(server: ApiServer, tmp_path: Path) -> None:
    """Looking for a pod or a lease that does not exist is no error."""
    server.status, server.answer = 404, {"message": "not found"}
    async with connected(tmp_path, server.server_port) as api:
        assert await api.read_pod("a") is None
        assert await api.read_lease("a") is None


async def test_an_api_that_is_not_there_is_said_at_once(server: ApiServer, tmp_path: Path) -> None:
    """An outage is noticed by the first call, without tries that nobody sees."""
    server.answer = b"<html>gateway</html>"
    async with connected(tmp_path, server.server_port) as api:
        with pytest.raises(ClusterUnavailable):
            await api.list_pods()
    async with connected(tmp_path, 1) as api:
        with pytest.raises(ClusterUnavailable, match="cannot be reached"):
            await api.list_pods()
        with pytest.raises(ClusterUnavailable):
            await anext(api.watch_pods("7"))


async def test_a_watch_tells_what_happens_and_ends_when_it_is_let_go(server: ApiServer, tmp_path: Path) -> None:
    """Stopping the orchestrator does not wait for a quiet watch."""
    server.lines = (
        json.dumps({"type": "ADDED", "object": POD}).encode(),
        json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}}).encode(),
    )
    async with connected(tmp_path, server.server_port) as api:
        changes = api.watch_pods("7")
        seen = [await anext(changes) for _ in range(3)]
        await changes.aclose()
        await until(lambda: all(thread.name != "kubernetes-watch" for thread in threading.enumerate()))
    assert [(change.kind, change.version) for change in seen] == [("BOOKMARK", "7"), ("ADDED", "8"), ("BOOKMARK", "9")]
    [(_, path, _)] = server.asked
    assert "resourceVersion=7" in path


async def test_a_watch_that_is_too_old_says_so(server: ApiServer, tmp_path: Path) -> None:
    """The fleet lists the pods anew then."""
    too_old = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
    server.lines = (json.dumps({"type": "ERROR", "object": too_old}).encode(),)
    async with connected(tmp_path, server.server_port) as api:
        changes = api.watch_pods("7")
        await anext(changes)
        with pytest.raises(WatchExpired):
            await anext(changes)


@pytest.mark.parametrize(
    "line",
    [b"[]", b'"text"', b"{}", b'{"type": "ADDED", "object": {}}', b'{"type": "ERROR", "object": "text"}', b"{"],
)
async def test_what_is_no_event_ends_a_watch_as_an_outage_does(server: ApiServer, tmp_path: Path, line: bytes) -> None:
    """Something odd between us and the API is said, and watching goes on after a pause instead of at once."""
    server.lines = (line,)
    async with connected(tmp_path, server.server_port) as api:
        changes = api.watch_pods("7")
        await anext(changes)
        with pytest.raises(ClusterUnavailable):
            await anext(changes)


def test_a_process_outside_of_a_cluster_is_told_so() -> None:
    """Whoever sets OFFSHELF_FLEET=kubernetes on a laptop reads what to do."""
    with pytest.raises(InvalidInput, match="OFFSHELF_FLEET=kubernetes is for a pod with a service account"):
        KubernetesApi.connect("shelf")
