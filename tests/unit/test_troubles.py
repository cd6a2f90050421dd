"""What is wrong with a pod or a Deployment, in one line with its fix."""

from __future__ import annotations

from typing import Any

import pytest

from offshelf.services.orchestrator.fleet.pods import read_pod
from offshelf.services.orchestrator.fleet.troubles import Kind, trouble_of_deployment, trouble_of_pod
from tests.unit.fake_cluster import container, pod, ready, unschedulable


@pytest.mark.parametrize(
    ("manifest", "kind", "said"),
    [
        (unschedulable(pod("trainer")), Kind.ROOM, "no room in the cluster for trainer (0/1 nodes"),
        (
            container(pod("trainer"), waiting={"reason": "ErrImageNeverPull"}),
            Kind.IMAGE,
            "trainer: the image offshelf:1 is not on the node and may not be pulled",
        ),
        (container(pod("trainer"), waiting={"reason": "InvalidImageName"}), Kind.IMAGE, "not the name of an image"),
        (
            container(
                pod("trainer"),
                waiting={"reason": "CreateContainerConfigError", "message": 'secret "offshelf-store" not found'},
            ),
            Kind.CONFIGURATION,
            "the secret offshelf-store is missing in the namespace shelf; make secrets OVERLAY=... makes it, or says",
        ),
        (
            container(
                pod("trainer"),
                waiting={
                    "reason": "CreateContainerConfigError",
                    "message": "failed to sync configmap cache: timed out",
                },
            ),
            Kind.CREATION,
            "its configuration is not complete (failed to sync configmap cache: timed out)",
        ),
        (
            container(
                pod("trainer"),
                waiting={
                    "reason": "CreateContainerConfigError",
                    "message": "couldn't find key token in Secret shelf/offshelf-token",
                },
            ),
            Kind.CONFIGURATION,
            "not complete (couldn't find key token in Secret shelf/offshelf-token); add what is missing.",
        ),
        (
            container(pod("trainer"), restarts=1, waiting={"reason": "CrashLoopBackOff"}, last={"reason": "OOMKilled"}),
            Kind.CRASH,
            "trainer: ran out of memory (its limit is 1Gi); raise the memory limit of the Deployment.",
        ),
        (
            container(pod("trainer"), terminated={"exitCode": 1, "message": "Traceback: secret stuff"}),
            Kind.CRASH,
            "its process ends (exit status 1) instead of becoming ready; kubectl logs -n shelf trainer-1 -c trainer",
        ),
    ],
    ids=["room", "never pulled", "image name", "secret", "not synced", "key", "memory", "crash"],
)
def test_each_trouble_is_one_line_with_its_fix(manifest: dict[str, Any], kind: Kind, said: str) -> None:
    """Whoever reads the status of a run knows what to do, without knowing Kubernetes by heart."""
    trouble = trouble_of_pod(manifest, "trainer")
    assert trouble is not None
    assert trouble.kind is kind
    assert said in trouble.line
    assert "secret stuff" not in trouble.line
    assert "\n" not in trouble.line


NOT_SYNCED = "failed to sync secret cache: timed out waiting for the condition"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "the secret offshelf-store may be missing in the namespace shelf"),
        (
            {"env": [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "offshelf-token", "key": "token"}}}]},
            "one of the secrets offshelf-store, offshelf-token may be missing in the namespace shelf",
        ),
    ],
)
def test_a_secret_that_the_node_does_not_name_is_named(more: dict[str, Any], said: str) -> None:
    """Which secrets to look for is said also while the node itself says only that it could not read one."""
    manifest = container(pod("trainer"), waiting={"reason": "CreateContainerConfigError", "message": NOT_SYNCED})
    manifest["spec"]["initContainers"] = [
        {"name": "first", "envFrom": [{"secretRef": {"name": "maybe", "optional": True}}, {"configMapRef": {}}]}
    ]
    manifest["spec"]["containers"][1] |= {"envFrom": [{"secretRef": {"name": "offshelf-store"}}], **more}
    trouble = trouble_of_pod(manifest, "trainer")
    assert trouble is not None
    assert trouble.kind is Kind.CREATION, "the node may just not reach the API, which mends itself"
    assert trouble.line == (
        f"trainer: {said} ({NOT_SYNCED}); make secrets OVERLAY=... makes it, or says what belongs in it."
    )


PULLED = "its image is still being pulled"
MISSING = (
    "one of its volumes is missing (configMap labels, secret offshelf-tls-trainer, secret offshelf-users; "
    "make secrets OVERLAY=... makes the secrets, or says what belongs in them)"
)


@pytest.mark.parametrize(("mounted", "said"), [(None, f"{PULLED}, or {MISSING}"), ("False", MISSING), ("True", PULLED)])
def test_a_volume_that_may_be_missing_is_named(mounted: str | None, said: str) -> None:
    """A secret that was forgotten is found in the message, although the API tells of it in events alone."""
    manifest = container(pod("trainer"), waiting={"reason": "ContainerCreating"})
    manifest["spec"]["volumes"] = [
        {"name": "tls", "secret": {"secretName": "offshelf-tls-trainer"}},
        {"name": "scratch", "emptyDir": {}},
        {"name": "mine", "secret": {"secretName": "maybe", "optional": True}},
        {
            "name": "all",
            "projected": {"sources": [{"secret": {"name": "offshelf-users"}}, {"configMap": {"name": "labels"}}]},
        },
    ]
    if mounted:
        manifest["status"]["conditions"] = [{"type": "PodReadyToStartContainers", "status": mounted}]
    trouble = trouble_of_pod(manifest, "trainer")
    assert trouble is not None
    assert trouble.line == (
        f"trainer: its container takes long to be created: {said}; kubectl describe pod -n shelf trainer-1 says more."
    )


def test_a_pod_that_is_starting_is_no_trouble() -> None:
    """A container that runs and is not ready yet is given its time, also after it was started again."""
    assert trouble_of_pod(pod("trainer"), "trainer") is None
    again = container(pod("trainer"), restarts=1, running={}, last={"exitCode": 137, "reason": "Error"})
    assert trouble_of_pod(again, "trainer") is None


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        ('pods "a" is forbidden: exceeded quota: small', Kind.ROOM, "quota allows no more pods"),
        ('pods "a" is forbidden: violates PodSecurity', Kind.REFUSED, "the cluster refuses its pods"),
    ],
)
def test_a_deployment_that_cannot_make_pods_says_why(message: str, kind: Kind, said: str) -> None:
    """A quota and a policy are found although there is no pod to ask."""
    condition = {"type": "ReplicaFailure", "status": "True", "message": message}
    trouble = trouble_of_deployment({"metadata": {"name": "trainer"}, "status": {"conditions": [condition]}})
    assert trouble is not None
    assert trouble.kind is kind
    assert said in trouble.line


@pytest.mark.parametrize(("ip", "address"), [("10.0.0.7", "10.0.0.7:7000"), ("fd00::7", "[fd00::7]:7000")])
def test_both_kinds_of_address_can_be_dialled(ip: str, address: str) -> None:
    """Clusters with IPv6 work."""
    seen = read_pod(ready(pod("trainer"), ip=ip))
    assert seen is not None
    assert seen.replica.address == address
