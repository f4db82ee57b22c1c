"""The manifests in deploy/kubernetes: of the shape Kubernetes takes, and right for this server.

Without a cluster. What they do in one is told in deploy/README.md.
"""

import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.fleet import SPARE_SECONDS
from server.ops.app import create_ops_app
from server.port import LINGER_SECONDS
from server.runtime import InProcessRuntime
from server.settings import PREFIX, Settings, SettingsError, load, variable_of

ROOT = Path(__file__).parent.parent
MANIFESTS = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
DOCKERFILE = (ROOT / "Dockerfile").read_text()
OBJECTS: list[dict[str, Any]] = [
    each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text())
]
OLDEST = "1.25.0"


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (each for each in OBJECTS if each["kind"] == kind)
    return found


POD = of_kind("Deployment")["spec"]["template"]
(CONTAINER,) = POD["spec"]["containers"]
ENVIRONMENT = {each["name"]: each["value"] for each in CONTAINER["env"]}
PORTS = {each["name"]: each["containerPort"] for each in CONTAINER["ports"]}


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("each", OBJECTS, ids=lambda each: each["kind"])
def test_each_manifest_is_of_its_shape(each: dict[str, Any], version: str):
    kubernetes_validate.validate(each, version, strict=True)


def test_a_mistake_would_be_seen():
    wrong = {**of_kind("Service"), "spec": {"ports": [{"port": "eighty"}]}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, OLDEST, strict=True)


def test_its_settings_are_settings(monkeypatch: pytest.MonkeyPatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    loaded = load()
    assert loaded.warnings == ()
    assert loaded.settings.workers == "auto"
    assert ENVIRONMENT["ORT_DISABLE_TELEMETRY"] == "1"


def test_it_is_given_the_time_that_it_takes_to_stop():
    settings = Settings(
        drain_delay_seconds=float(ENVIRONMENT[variable_of("drain_delay_seconds")]),
        drain_seconds=float(ENVIRONMENT[variable_of("drain_seconds")]),
    )
    longest = settings.drain_delay_seconds + LINGER_SECONDS + settings.drain_seconds + SPARE_SECONDS
    assert POD["spec"]["terminationGracePeriodSeconds"] > longest
    readiness = CONTAINER["readinessProbe"]
    unnoticed = readiness["periodSeconds"] * readiness["failureThreshold"]
    assert settings.drain_delay_seconds > unnoticed + readiness["timeoutSeconds"]


def test_its_probes_ask_what_the_ops_port_answers():
    application = create_ops_app(InProcessRuntime(Settings()))
    paths = {getattr(route, "path", None) for route in application.routes}
    probes = {
        name: CONTAINER[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")
    }
    assert {probe["path"] for probe in probes.values()} == {
        "/health/startup",
        "/health/ready",
        "/health/live",
    }
    assert {probe["path"] for probe in probes.values()} <= paths
    assert {probe["port"] for probe in probes.values()} == {"ops"}


def test_its_ports_user_and_folders_are_the_images():
    exposed = re.findall(r"^EXPOSE (\d+) (\d+)$", DOCKERFILE, re.MULTILINE)
    assert exposed == [(str(PORTS["predictions"]), str(PORTS["ops"]))]
    user = POD["spec"]["securityContext"]
    assert f"USER {user['runAsUser']}:{user['runAsGroup']}\n" in DOCKERFILE
    (state,) = re.findall(rf"{PREFIX}STATE_DIR=(\S+)", DOCKERFILE)
    mounts = {each["mountPath"]: each for each in CONTAINER["volumeMounts"]}
    assert "readOnly" not in mounts[state]
    assert mounts[ENVIRONMENT[variable_of("store")]]["readOnly"]
    assert mounts[f"{state}/tokens.json"]["subPath"] == "tokens.json"


def test_it_may_do_nothing_beyond_serving():
    own = POD["spec"]["securityContext"] | CONTAINER["securityContext"]
    assert own["runAsNonRoot"]
    assert own["readOnlyRootFilesystem"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert own["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["spec"]["automountServiceAccountToken"] is False


def test_the_ops_port_is_in_no_service_and_not_open_to_all():
    assert [port["targetPort"] for port in of_kind("Service")["spec"]["ports"]] == ["predictions"]
    policy = of_kind("NetworkPolicy")["spec"]
    for rule in policy["ingress"]:
        (port,) = rule["ports"]
        assert port["port"] == "predictions" or rule["from"]
    assert (policy["egress"], policy["policyTypes"]) == ([], ["Ingress", "Egress"])


def test_selectors_find_the_pods():
    labels = POD["metadata"]["labels"]
    deployment, budget = of_kind("Deployment")["spec"], of_kind("PodDisruptionBudget")["spec"]
    chosen = [deployment["selector"]["matchLabels"], budget["selector"]["matchLabels"]]
    chosen += [of_kind("Service")["spec"]["selector"]]
    for selector in chosen:
        assert selector == labels
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_other_colour_is_the_same_file_with_another_word():
    """As deploy/README.md says: both stand beside each other, and share nothing but the Service."""
    text = (ROOT / "deploy" / "kubernetes" / "instances.yaml").read_text()
    green = list(yaml.safe_load_all(text.replace("blue", "green")))
    names = {(each["kind"], each["metadata"]["name"]) for each in OBJECTS}
    assert not names & {(each["kind"], each["metadata"]["name"]) for each in green}
    deployment = next(each for each in green if each["kind"] == "Deployment")
    assert deployment["spec"]["template"]["metadata"]["labels"] == {
        "app": "keelmark",
        "slot": "green",
    }
    assert "sed s/blue/green/" in (ROOT / "deploy" / "README.md").read_text()


def test_a_service_of_that_name_does_not_change_its_settings(monkeypatch: pytest.MonkeyPatch):
    assert POD["spec"]["enableServiceLinks"] is False
    monkeypatch.setenv("KEELMARK_PORT", "tcp://10.0.0.7:80")
    with pytest.raises(SettingsError, match="enableServiceLinks: false"):
        load()
