"""The Kubernetes API through the official client, whose calls block: they are made in threads of their own.

The client is imported when a connection is made, since only an orchestrator in a cluster has a use for it. It is asked
for plain JSON and not for its models, which would have to know every field of every version of the API.
"""

from __future__ import annotations

import asyncio
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import urllib3

from offshelf.errors import Conflict, Internal, InvalidInput, NotFound, OffshelfError, PermissionDenied
from offshelf.services.orchestrator.fleet.cluster_api import (
    PART_OF,
    Change,
    ClusterUnavailable,
    Listing,
    Manifest,
    WatchExpired,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where Kubernetes puts the service account of a pod."""

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 10.0

_WATCH_SECONDS = 30
"""How long one watch lasts. A connection that has died without a word is noticed a little later."""

_THREADS = 4
_GONE = 410
_BUSY = 429
_DEFECTIVE = 500
_ERRORS = {401: PermissionDenied, 403: PermissionDenied, 404: NotFound, 409: Conflict, _GONE: WatchExpired}


class KubernetesApi:
    """The API of the cluster for one namespace: a `PodApi` and a `LeaseApi`; made by `connect`."""

    def __init__(self, client: Any, namespace: str) -> None:
        """`client` is a `kubernetes.client.ApiClient`."""
        import kubernetes.client as k8s

        self.namespace = namespace
        self._client = client
        self._core = k8s.CoreV1Api(client)
        self._apps = k8s.AppsV1Api(client)
        self._coordination = k8s.CoordinationV1Api(client)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kubernetes-api")

    @classmethod
    def connect(cls, namespace: str = "", kubeconfig: Path | None = None) -> Self:
        """Find out how to reach the API: as the pod's service account, or by a kubeconfig. Blocks; opens nothing yet.

        Parameters
        ----------
        namespace
            Namespace of the installation; by default the one of the service account.
        kubeconfig
            File to use instead of the service account.

        Raises
        ------
        InvalidInput
            There is no service account, the file cannot be used, or the namespace is not known.
        """
        import kubernetes.client as k8s
        from kubernetes import config

        settings = k8s.Configuration()
        try:
            if kubeconfig is not None:
                config.load_kube_config(str(kubeconfig), client_configuration=settings)
            else:
                # Kubernetes replaces the token every hour or so; the client reads it again in time.
                config.load_incluster_config(client_configuration=settings)
        except config.ConfigException as error:
            raise InvalidInput(
                f"The Kubernetes API cannot be used: {error}. OFFSHELF_FLEET=kubernetes is for a pod with a service "
                "account (automountServiceAccountToken: true); on one machine, leave it unset."
            ) from None
        settings.retries = False  # whoever asks knows better whether asking again makes sense
        settings.connection_pool_maxsize = _THREADS + 1
        return cls(k8s.ApiClient(settings), namespace or _own_namespace())

    async def list_pods(self) -> Listing:
        """List the pods of the installation."""
        return _listing(await self._call(self._core.list_namespaced_pod, self.namespace, **_ours()))

    async def list_deployments(self) -> Listing:
        """List the Deployments of the installation."""
        return _listing(await self._call(self._apps.list_namespaced_deployment, self.namespace, **_ours()))

    async def scale(self, deployment: str, replicas: int) -> None:
        """Set how many pods a Deployment should have."""
        body = {"spec": {"replicas": replicas}}
        await self._call(self._apps.patch_namespaced_deployment_scale, deployment, self.namespace, body)

    async def delete_pod(self, name: str, uid: str) -> None:
        """Delete a pod, if it is still the one with this uid."""
        body = {"preconditions": {"uid": uid}}
        await self._call(self._core.delete_namespaced_pod, name, self.namespace, body=body)

    async def read_pod(self, name: str) -> Manifest | None:
        """Look a pod up."""
        with suppress(NotFound):
            return await self._call(self._core.read_namespaced_pod, name, self.namespace)
        return None

    async def read_lease(self, name: str) -> Manifest | None:
        """Look a lease up."""
        with suppress(NotFound):
            return await self._call(self._coordination.read_namespaced_lease, name, self.namespace)
        return None

    async def create_lease(self, lease: Manifest) -> Manifest:
        """Make a lease."""
        return await self._call(self._coordination.create_namespaced_lease, self.namespace, dict(lease))

    async def replace_lease(self, lease: Manifest) -> Manifest:
        """Write a lease, if it is still at the version that this one was read at."""
        name = lease["metadata"]["name"]
        return await self._call(self._coordination.replace_namespaced_lease, name, self.namespace, dict(lease))

    async def watch_pods(self, version: str) -> AsyncGenerator[Change, None]:
        """Yield what happens to the pods after a version."""
        stream = _Stream(asyncio.get_running_loop())
        ask = partial(
            self._core.list_namespaced_pod,
            self.namespace,
            watch=True,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=_WATCH_SECONDS,
            _preload_content=False,
            _request_timeout=(_CONNECT_SECONDS, _WATCH_SECONDS + _ANSWER_SECONDS),
            **_ours(),
        )
        # A thread that nobody waits for: one that hangs in a dead connection must not keep this process from ending.
        threading.Thread(target=stream.pump, args=(ask, version), name="kubernetes-watch", daemon=True).start()
        try:
            while (item := await stream.queue.get()) is not None:
                if isinstance(item, OffshelfError):
                    raise item
                yield item
        finally:
            stream.stop()

    async def close(self) -> None:
        """Let go of the threads and connections; calls that are under way end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._client.close)

    async def _call(self, method: Callable[..., Any], *arguments: object, **options: object) -> Manifest:
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, partial(_answer, method, *arguments, **options)
        )


class _Stream:
    """One watch: read in a thread, handed to the event loop, cut off from there."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.queue: asyncio.Queue[Change | OffshelfError | None] = asyncio.Queue()
        self._loop = loop
        self._lock = threading.Lock()
        self._stopped = False
        self._response: Any = None

    def pump(self, ask: Callable[[], Any], version: str) -> None:
        """Read to the end; the thread's whole life."""
        try:
            with _our_errors():
                response = ask()
                with self._lock:
                    if self._stopped:
                        response.close()
                        return
                    self._response = response
                self._hand_over(Change("BOOKMARK", version, {}))
                for line in response:
                    self._hand_over(_change(json.loads(line)))
        except OffshelfError as error:
            self._hand_over(error)
        finally:
            self._hand_over(None)
            with self._lock:
                if self._response is not None:
                    self._response.close()
                    self._response = None

    def stop(self) -> None:
        """Have the thread end, also out of the middle of a read."""
        with self._lock:
            self._stopped = True
            if self._response is not None:
                with suppress(Exception):  # whatever state the connection is in: it is not needed any more
                    self._response.shutdown()

    def _hand_over(self, item: Change | OffshelfError | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.queue.put_nowait, item)


def _own_namespace() -> str:
    try:
        return (_ACCOUNT / "namespace").read_text().strip()
    except OSError:
        raise InvalidInput("The namespace of the installation is not known: set OFFSHELF_NAMESPACE.") from None


def _ours() -> dict[str, str]:
    return {"label_selector": f"app.kubernetes.io/part-of={PART_OF}"}


def _answer(method: Callable[..., Any], *arguments: object, **options: object) -> Any:
    with _our_errors():
        timeout = (_CONNECT_SECONDS, _ANSWER_SECONDS)
        response = method(*arguments, _preload_content=False, _request_timeout=timeout, **options)
        return json.loads(response.data)


def _listing(answer: Manifest) -> Listing:
    return Listing(tuple(answer.get("items") or ()), answer["metadata"]["resourceVersion"])


def _change(event: Manifest) -> Change:
    try:
        item = event["object"]
        if event["type"] == "ERROR":
            raise _error(item.get("code", 0), item.get("message", "the watch ended"))
        return Change(event["type"], item["metadata"]["resourceVersion"], item)
    except (AttributeError, KeyError, TypeError) as error:
        # Not a watch that ended in order, after which the next one would begin at once.
        raise ClusterUnavailable("The Kubernetes API sends what is no event of a watch.") from error


@contextmanager
def _our_errors() -> Iterator[None]:
    from kubernetes.client.exceptions import ApiException

    try:
        yield
    except ApiException as error:
        raise _error(error.status or 0, _reason(error)) from None
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        # ValueError: an answer that is not JSON, as a proxy in between may give or a connection that was cut.
        raise ClusterUnavailable(f"The Kubernetes API cannot be reached ({type(error).__name__}).") from error


def _reason(error: Any) -> str:
    """Take the message out of the API's own description of the error."""
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(error.body)["message"])
    return str(error.reason or "no reason given")


def _error(status: int, reason: str) -> OffshelfError:
    reason = " ".join(reason.split())
    if kind := _ERRORS.get(status):
        return kind(f"The Kubernetes API refuses: {reason.rstrip('.')}.")
    if status in {0, _BUSY} or status >= _DEFECTIVE:
        return ClusterUnavailable(f"The Kubernetes API cannot be used at the moment: {reason.rstrip('.')}.")
    return Internal(f"The Kubernetes API does not understand (status {status}): {reason.rstrip('.')}.")
