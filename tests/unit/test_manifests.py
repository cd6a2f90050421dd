"""k8s/: accepted by the Kubernetes it promises, and as safe as the documentation says."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from offshelf.extraction.extractors import CUSTOM as CUSTOM_EXTRACTORS
from offshelf.extraction.extractors import replicas_of
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import REMOTE_ENGINE, served
from offshelf.extraction.weights import stock
from offshelf.extraction.weights.fetching import FetchPolicy
from offshelf.extraction.weights.finding import source_of
from offshelf.settings import Settings
from tests.unit.compositions import (
    INSTALLATIONS,
    K8S,
    NAMES,
    SECRET_SETTINGS,
    SERVICES,
    SETTINGS,
    Composition,
    compose,
    compose_overlay,
    containers,
    pod_labels,
    pod_of,
    rbac_table,
    selects,
    variables,
)

PROMISED = "1.29"
GUIDE = K8S.parent / "docs" / "cluster.md"
EXAMPLES = re.findall(r"```yaml\n((?:patches|components):.*?)```", GUIDE.read_text(), re.DOTALL)
HEALTH_PORT = 7001

CUSTOM: dict[tuple[str, str], Any] = {
    ("cert-manager.io/v1", "Issuer"): {"selfSigned": {}, "ca": {"secretName": ""}},
    ("cert-manager.io/v1", "Certificate"): {
        **dict.fromkeys(("isCA", "commonName", "secretName", "dnsNames", "usages", "duration", "renewBefore"), ""),
        "privateKey": dict.fromkeys(("algorithm", "size", "rotationPolicy"), ""),
        "issuerRef": dict.fromkeys(("kind", "name"), ""),
    },
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "selector": {"matchLabels": ""},
        "jobLabel": "",
        "endpoints": [dict.fromkeys(("port", "interval"), "")],
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {
        "groups": [{"name": "", "rules": [dict.fromkeys(("alert", "expr", "for", "labels", "annotations"), "")]}]
    },
}
"""Fields that we use of what Kubernetes itself does not know; "" is anything."""


@pytest.fixture(params=NAMES)
def composition(request: pytest.FixtureRequest) -> Composition:
    """Each composition in turn."""
    return compose(request.param)


@pytest.fixture(params=INSTALLATIONS)
def installation(request: pytest.FixtureRequest) -> Composition:
    """Each composition that holds all services, in turn."""
    return compose(request.param)


@pytest.fixture(params=[name for name in NAMES if name.startswith("overlays/")])
def overlay(request: pytest.FixtureRequest) -> Composition:
    """Each composition that is meant to be deployed, in turn."""
    return compose(request.param)


def surplus(value: Any, allowed: Any, path: str) -> list[str]:
    """Fields of a value that are not among the allowed ones."""
    if isinstance(allowed, dict) and isinstance(value, dict):
        unknown = [f"{path}.{key}" for key in value if key not in allowed]
        return unknown + [
            one for key in value if key in allowed for one in surplus(value[key], allowed[key], f"{path}.{key}")
        ]
    if isinstance(allowed, list):
        return [one for item in value for one in surplus(item, allowed[0], path)]
    return []


@functools.cache
def validate(manifest: str) -> None:
    """Hold a manifest against the schemas, once: most compositions have most of them in common."""
    kubernetes_validate.validate(json.loads(manifest), PROMISED, strict=True)


# ------------------------------------------------------------------------------------------------------------ schemas


def test_the_promised_kubernetes_takes_every_composition(composition: Composition) -> None:
    """Whatever is put together from k8s/ is accepted by Kubernetes 1.29, with no field that it would ignore."""
    for manifest in composition.manifests:
        kind = manifest["apiVersion"], manifest["kind"]
        if kind in CUSTOM:
            assert not surplus(manifest["spec"], CUSTOM[kind], manifest["metadata"]["name"])
        else:
            validate(json.dumps(manifest))


def test_everything_lies_in_one_namespace_and_is_ours(installation: Composition) -> None:
    """Nothing is put beside the installation's namespace, and all of it is found by one label."""
    for manifest in installation.manifests:
        assert manifest["metadata"]["labels"]["app.kubernetes.io/part-of"] == "offshelf"
        if manifest["kind"] == "Namespace":
            assert manifest["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
        else:
            assert manifest["metadata"]["namespace"] == "offshelf"


def test_no_secret_is_in_a_manifest(composition: Composition) -> None:
    """Manifests can be published: they name secrets and hold none."""
    assert not composition.of("Secret")
    for settings in composition.of("ConfigMap"):
        assert not SECRET_SETTINGS & settings["data"].keys()


# --------------------------------------------------------------------------------------------------------------- pods


def test_pods_have_no_more_rights_than_they_need(composition: Composition) -> None:
    """A process that is taken over is no root, can write nowhere but /tmp, and sees nothing of its node."""
    for workload in composition.workloads:
        pod = pod_of(workload)
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert (context["runAsUser"], context["runAsGroup"]) == (10001, 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"))
        assert {next(key for key in volume if key != "name") for volume in pod["volumes"]} <= {"emptyDir", "secret"}
        for container in containers(workload):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not any("hostPort" in port for port in container.get("ports", ()))
            writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
            assert "/tmp" in writable  # noqa: S108  the one place that a container may write to
            assert writable <= {"/tmp", "/data"}  # noqa: S108


def test_pods_say_what_they_need_and_get_no_more(composition: Composition) -> None:
    """A scheduler can plan with them, and one that runs wild costs its own pod and not its node."""
    for workload in composition.workloads:
        for container in containers(workload):
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
        for volume in pod_of(workload)["volumes"]:
            assert "sizeLimit" in volume.get("emptyDir", {"sizeLimit": ""})


def test_images_have_versions(composition: Composition) -> None:
    """What runs tomorrow is what runs today: no image is taken by a name that moves."""
    for workload in composition.workloads:
        for container in containers(workload):
            _, _, tag = container["image"].rpartition("/")[2].partition(":")
            assert tag
            assert tag != "latest"
            assert container["imagePullPolicy"] == "IfNotPresent"


def test_pods_are_asked_how_they_are(composition: Composition) -> None:
    """A pod gets calls when it is warm, and is replaced when it hangs, but not while it starts."""
    for workload in composition.of("Deployment", "StatefulSet"):
        for container in containers(workload):
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    for deployment in composition.services:
        (container,) = containers(deployment)
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert ports == {"grpc": 7000, "health": HEALTH_PORT, "metrics": 7002}
        assert container["startupProbe"]["grpc"] == {"port": HEALTH_PORT, "service": ""}
        assert container["readinessProbe"]["grpc"] == {"port": HEALTH_PORT, "service": ""}
        assert container["livenessProbe"]["grpc"] == {"port": HEALTH_PORT, "service": "live"}
        assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_pods_have_time_to_finish(installation: Composition) -> None:
    """A pod that is asked to end can end its calls: it is not killed before its own time is over."""
    for deployment in installation.services:
        settings = installation.settings(deployment)
        own = float(settings["OFFSHELF_SETTLE_SECONDS"]) + float(settings["OFFSHELF_DRAIN_SECONDS"]) + 5
        assert pod_of(deployment)["terminationGracePeriodSeconds"] >= own


def test_replicas_are_spread(composition: Composition) -> None:
    """Replicas of one service go to several nodes where there are several."""
    for deployment in composition.services:
        (constraint,) = pod_of(deployment)["topologySpreadConstraints"]
        assert constraint["whenUnsatisfiable"] == "ScheduleAnyway"
        assert selects(constraint["labelSelector"], pod_labels(deployment))


def test_only_the_orchestrator_has_a_token_of_the_api(composition: Composition) -> None:
    """Whoever takes over a service that decodes images or fits models gets no way to the Kubernetes API with it."""
    for account in composition.of("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for workload in composition.workloads:
        is_orchestrator = workload["metadata"]["name"] == "orchestrator"
        assert pod_of(workload)["automountServiceAccountToken"] is is_orchestrator
        accounts = [account["metadata"]["name"] for account in composition.of("ServiceAccount")]
        assert pod_of(workload)["serviceAccountName"] in accounts


def test_rights_are_those_that_the_documentation_lists(installation: Composition) -> None:
    """The table in docs/architecture.md is the whole truth about what the orchestrator may do, in one namespace."""
    assert not installation.of("ClusterRole", "ClusterRoleBinding")
    (role,) = installation.of("Role")
    (binding,) = installation.of("RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "orchestrator", "namespace": "offshelf"}]
    granted = {
        (f"{resource.partition('/')[0]}{'.' if group else ''}{group}{''.join(resource.partition('/')[1:])}", name, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }
    assert granted == rbac_table()


# ---------------------------------------------------------------------------------------------------------- together


def test_selectors_take_what_they_are_meant_to(composition: Composition) -> None:
    """Calls, disruption budgets and autoscaling concern exactly the one set of pods that they are named for."""
    pods = [(workload["metadata"]["name"], pod_labels(workload)) for workload in composition.workloads]
    for manifest in composition.of("Service", "PodDisruptionBudget"):
        name, selector = manifest["metadata"]["name"], manifest["spec"]["selector"]
        selector = {"matchLabels": selector} if manifest["kind"] == "Service" else selector
        assert [pod for pod, labels in pods if selects(selector, labels)] == [name.removesuffix("-door")]
    for deployment in composition.services:
        assert deployment["spec"]["selector"]["matchLabels"].items() <= pod_labels(deployment).items()
    for scaler in composition.of("HorizontalPodAutoscaler"):
        target = composition.one("Deployment", scaler["spec"]["scaleTargetRef"]["name"])
        assert "replicas" not in target["spec"]
    for policy in composition.of("NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        is_of_an_absent_store = selector.get("matchLabels", {}).get("app.kubernetes.io/component") == "store"
        assert is_of_an_absent_store or any(selects(selector, labels) for _, labels in pods)


def test_every_service_is_complete(installation: Composition) -> None:
    """Each service has an address, an account and a budget for disruptions, and drains are never blocked for ever."""
    for deployment in installation.services:
        name = deployment["metadata"]["name"]
        assert installation.one("Service", name)["spec"]["clusterIP"] == "None"
        assert installation.one("ServiceAccount", name)
        budget = installation.one("PodDisruptionBudget", name)["spec"]
        assert budget.get("maxUnavailable") == 1 or (name == "predictor" and budget["minAvailable"] == 1)
        labels = deployment["metadata"]["labels"]
        assert labels["app.kubernetes.io/name"] == name == pod_labels(deployment)["app.kubernetes.io/name"]
        assert labels["app.kubernetes.io/component"] in SERVICES


def test_replicas_begin_where_they_should(installation: Composition) -> None:
    """A fresh installation runs what answers users and nothing that waits for work."""
    replicas = {one["metadata"]["name"]: one["spec"].get("replicas") for one in installation.services}
    expected = {"orchestrator": 1, "stats": 1, "trainer": 0, "predictor": 2}
    expected |= {f"extractor-{name}": 0 for name in (*EXTRACTORS, CUSTOM_EXTRACTORS)}
    if installation.of("HorizontalPodAutoscaler"):
        replicas["predictor"] = installation.one("HorizontalPodAutoscaler", "predictor")["spec"]["minReplicas"]
    assert replicas == expected
    strategy = installation.one("Deployment", "orchestrator")["spec"]["strategy"]
    assert strategy == {"type": "Recreate"}


def test_every_extractor_of_the_catalogue_can_be_deployed() -> None:
    """What the catalogue offers runs on a cluster, too; a new extractor is a folder with three lines."""
    for name in EXTRACTORS:
        assert len((K8S / "extractors" / name / "kustomization.yaml").read_text().splitlines()) == 3
        deployment = compose(f"extractors/{name}").one("Deployment", f"extractor-{name}")
        assert deployment["metadata"]["labels"]["offshelf.dev/extractor"] == name
        assert pod_labels(deployment)["offshelf.dev/extractor"] == name
        (variable,) = (one for one in containers(deployment)[0]["env"] if one["name"] == "OFFSHELF_EXTRACTOR")
        assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['offshelf.dev/extractor']"


def test_extractors_with_parameters_can_be_deployed() -> None:
    """One Deployment serves all that the catalogue has no name for, with memory for more than one network."""
    custom = compose(f"extractors/{CUSTOM_EXTRACTORS}").one("Deployment", f"extractor-{CUSTOM_EXTRACTORS}")
    assert custom["metadata"]["labels"]["offshelf.dev/extractor"] == CUSTOM_EXTRACTORS == replicas_of("lab:8,4,4")
    assert pod_labels(custom)["offshelf.dev/extractor"] == CUSTOM_EXTRACTORS
    one = compose("extractors/resnet50").one("Deployment", "extractor-resnet50")
    limits = [containers(each)[0]["resources"]["limits"]["memory"] for each in (one, custom)]
    assert limits == ["3Gi", "6Gi"]


def test_weights_are_pulled_by_a_job_of_its_own() -> None:
    """`weights-cache` runs a command that there is, for networks that there are, and may alone reach the web."""
    composition = compose("components/weights-cache")
    job = composition.one("Job", "weights-cache")
    (container,) = containers(job)
    assert container["command"] == ["python", "-m", "offshelf.cli"]
    arguments = container["args"]
    assert arguments == ["weights", "pull", "$(NAMES)", "--to", "$(OFFSHELF_WEIGHTS)", "--fetch", "auto"]
    (names,) = (one["data"]["NAMES"] for one in composition.of("ConfigMap") if "NAMES" in one["data"])
    chosen = stock.networks(names.split(","))
    assert all(source_of(spec, FetchPolicy.of(Settings(store="/s"))) for spec in chosen)
    policy = composition.one("NetworkPolicy", "weights-cache-to-web")["spec"]
    assert [selects(policy["podSelector"], pod_labels(one)) for one in composition.workloads].count(True) == 1
    assert selects(policy["podSelector"], pod_labels(job))
    sources = [reference for source in container["envFrom"] for reference in source.values()]
    assert {one["name"].partition("-")[0] for one in sources} <= {"offshelf", "weights"}


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_of_the_guide_can_be_applied(example: str) -> None:
    """What docs/cluster.md gives for an overlay of one's own renders there, and changes something."""
    before = compose("overlays/production").text
    after = compose_overlay("an example", f"resources: [../../overlays/production]\n{example}").text
    assert after != before


def test_the_networks_of_weights_cache_can_be_chosen() -> None:
    """The Job is given the networks that an overlay names as the guide says."""
    (example,) = (each for each in EXAMPLES if "weights-cache" in each)
    composition = compose_overlay("weights", f"resources: [../../overlays/production]\n{example}")
    (chosen,) = (one for one in composition.of("ConfigMap") if "NAMES" in one["data"])
    assert chosen["data"]["NAMES"] == "googlenet,resnet50,resnet50:classes"
    (container,) = containers(composition.one("Job", "weights-cache"))
    assert {"configMapRef": {"name": chosen["metadata"]["name"]}} in container["envFrom"]


def test_settings_are_those_of_the_services(overlay: Composition) -> None:
    """No setting of an overlay is misspelt or has a value that a service would refuse."""
    for deployment in overlay.services:
        settings = overlay.settings(deployment)
        given = {name for name in settings if name.startswith("OFFSHELF_")} | set(variables(deployment))
        assert given <= SETTINGS
        Settings.from_environment(settings)
        assert re.match(r"s3://[a-z]", settings["OFFSHELF_STORE"])
        assert settings["OFFSHELF_TLS"]


def test_secrets_reach_those_who_need_them(overlay: Composition) -> None:
    """A service gets its own certificate and no other's, and only the doors get the users."""
    for deployment in overlay.services:
        component = deployment["metadata"]["labels"]["app.kubernetes.io/component"]
        volumes = pod_of(deployment)["volumes"]
        secrets = {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
        doors = {"offshelf-users"} if component in {"orchestrator", "predictor"} else set()
        assert secrets == {f"offshelf-tls-{component}"} | doors
        assert all(volume["secret"]["defaultMode"] == 0o440 for volume in volumes if "secret" in volume)


def test_those_who_decode_images_ask_the_engine_on_the_gpu() -> None:
    """With the component gpu the named extractors' pixels go to the engine, by TLS, from images that can ask it."""
    composition = compose("components/gpu")
    (model,) = Settings.from_environment(composition.settings(composition.services[0])).remote_engines
    assert served(EXTRACTORS[model.extractor]).method.identity()["engine"] == REMOTE_ENGINE
    service, _, port = model.address.partition(":")
    assert [each["port"] for each in composition.one("Service", service)["spec"]["ports"]] == [int(port)]
    for deployment in composition.services:
        settings = Settings.from_environment(composition.settings(deployment))
        assert settings.remote_engines == (model,)
        asks = deployment["metadata"]["labels"]["app.kubernetes.io/component"] in {"extractor", "predictor"}
        (container,) = containers(deployment)
        mounted = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
        assert settings.engine_ca is not None
        assert (settings.engine_ca.parent in mounted) is asks
        assert ("-tfserving:" in container["image"]) is asks
    engine = composition.one("StatefulSet", service)
    assert pod_of(engine)["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    (container,) = containers(engine)
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert f"--model_name={model.model}" in container["args"]
    assert any(argument.startswith("--ssl_config_file=") for argument in container["args"])


def test_renewed_certificates_are_for_the_names_that_are_checked() -> None:
    """The orchestrator recognises each service by the certificate that cert-manager makes for it."""
    composition = compose("overlays/production")
    for service in SERVICES:
        spec = composition.one("Certificate", f"offshelf-tls-{service}")["spec"]
        assert spec["secretName"] == f"offshelf-tls-{service}"
        assert spec["dnsNames"][0] == service
        assert {"server auth", "client auth"} <= set(spec["usages"])
