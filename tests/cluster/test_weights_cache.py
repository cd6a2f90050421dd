"""The Job that brings weights into the bucket, as far as a cluster that reaches no web can tell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster.installation import NAMESPACE, kubectl, last_words, read, wait_until
from tests.unit.compositions import compose_overlay

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.installation import Deployed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

JOB = "weights-cache"


class Cache:
    """The component on the installation that stands."""

    def __init__(self) -> None:
        self._applied: list[str] = []

    def start(self, names: str) -> None:
        """Run the Job for these networks."""
        overlay = compose_overlay(
            "local with weights-cache",
            "resources: [../../overlays/local]\n"
            "components: [../../components/weights-cache]\n"
            "patches:\n"
            "  - target: {kind: ConfigMap, name: weights-cache}\n"
            f"    patch: '- {{op: replace, path: /data/NAMES, value: \"{names}\"}}'\n"
            "images: [{name: offshelf-orchestrator, newName: localhost/offshelf-orchestrator, newTag: dev}]\n",
        )
        own = [each for each in overlay.manifests if each["metadata"]["name"].startswith(JOB)]
        self._applied.append(json.dumps({"apiVersion": "v1", "kind": "List", "items": own}))
        kubectl("apply", "--filename", "-", give=self._applied[-1])

    def remove(self) -> None:
        """Remove all that was applied."""
        while self._applied:
            kubectl("delete", "--filename", "-", give=self._applied.pop())


@pytest.fixture
def cache(deployed: Deployed) -> Iterator[Cache]:
    """The component, removed after the test."""
    del deployed
    cache = Cache()
    yield cache
    cache.remove()


def test_weights_that_are_there_and_right_are_left_alone(cache: Cache, material: Path | None) -> None:
    """Each deployment runs the Job again; it reads and checks what is in the bucket, and ends well without the web."""
    if material is None:
        pytest.skip("OFFSHELF_TEST_MATERIAL names no folder with weights")
    cache.start("googlenet")
    wait_until("the job is complete", lambda: status().get("succeeded") == 1, 120)


def test_weights_that_cannot_be_had_are_named(cache: Cache) -> None:
    """A Job that reaches no author says so, by the network, where a platform team looks first."""
    cache.start("vgg16")
    wait_until("the job says what is wrong", lambda: "vgg16" in last_words(JOB), 180)
    assert not status().get("succeeded")


def status() -> dict[str, int]:
    """How the Job stands."""
    found: dict[str, int] = read("get", "job", JOB, "--namespace", NAMESPACE).get("status", {})
    return found
