"""The chart against a real Kubernetes API server, with the operators' definitions installed: nothing runs, all is
judged."""

import copy
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.waiting import poll_until

from tests.deploy.chart import (
    APIS,
    CHART,
    HELM,
    PROFILES,
    TOOLS,
    objects,
    of_kind,
    pods,
    profiles,
    values_of,
)
from tests.deploy.kube_server import KubeServer, Refused

CRDS = sorted((TOOLS / "crds").glob("*.yaml"))
OURS = "app.kubernetes.io/instance=streamo"
RESTRICTED = "restricted"

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not all((TOOLS / "bin" / name).exists() for name in ("helm", "etcd", "kube-apiserver")),
        reason="no kube-apiserver, etcd or Helm: make deploy-tools",
    ),
    pytest.mark.skipif(len(CRDS) < 7, reason="no CRDs of the operators: see make deploy-tools"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeServer]:
    with KubeServer(TOOLS / "bin", tmp_path_factory.mktemp("kube")) as server:
        level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
        server.create(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RESTRICTED, "labels": level}}
        )
        definitions = [crd for path in CRDS for crd in yaml.safe_load_all(path.read_text())]
        for crd in definitions:
            server.create(crd)
        for crd in definitions:
            spec = crd["spec"]
            for version in spec["versions"]:
                api = f"{spec['group']}/{version['name']}"
                if version["served"]:
                    poll_until(lambda api=api, kind=spec["names"]["kind"]: server.serves(api, kind), 60, api)
        yield server


def helm(server: KubeServer, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HELM, *arguments, "--namespace", RESTRICTED],
        env={**os.environ, "KUBECONFIG": str(server.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=240,
    )


def stored(server: KubeServer, profile: str) -> set[tuple[str, str]]:
    """(kind, name) of what of the profile's objects is there."""
    kinds = {(one["apiVersion"], one["kind"]) for name in PROFILES for one in objects(name)}
    assert kinds >= {(one["apiVersion"], one["kind"]) for one in objects(profile)}
    return {
        (kind, one["metadata"]["name"])
        for api, kind in kinds
        for one in server.listed(api, kind, RESTRICTED, OURS)
    }


def rendered(profile: str, revision: int = 1) -> set[tuple[str, str]]:
    """What a release's revision consists of; test pods are made by `helm test` alone."""
    return {
        (one["kind"], one["metadata"]["name"].replace("topics-1", f"topics-{revision}"))
        for one in objects(profile)
        if "helm.sh/hook" not in one["metadata"].get("annotations", {})
    }


@profiles
def test_every_object_is_accepted_under_strict_validation_without_a_warning(
    server: KubeServer, profile: str
) -> None:
    for one in objects(profile):
        assert server.create(one, RESTRICTED, dry_run=True) == [], one["metadata"]["name"]


@profiles
def test_a_field_that_does_not_exist_is_refused_in_every_kind(server: KubeServer, profile: str) -> None:
    for one in objects(profile):
        wrong = copy.deepcopy(one)
        wrong["spec" if "spec" in wrong else "metadata"]["replikas"] = 3
        with pytest.raises(Refused, match=r"unknown field.*replikas"):
            server.create(wrong, RESTRICTED, dry_run=True)


@profiles
def test_every_pod_is_admitted_where_pod_security_is_restricted(server: KubeServer, profile: str) -> None:
    for name, template in pods(profile).items():
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": template["metadata"]["labels"]},
            "spec": copy.deepcopy(template["spec"]),
        }
        assert server.create(pod, RESTRICTED, dry_run=True) == [], name
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(Refused, match="violates PodSecurity"):
            server.create(pod, RESTRICTED, dry_run=True)


@profiles
def test_a_release_is_installed_upgraded_rolled_back_and_uninstalled(
    server: KubeServer, profile: str
) -> None:
    def sessions() -> set[str | None]:
        """What the settings say, in each ConfigMap of services."""
        maps = server.listed("v1", "ConfigMap", RESTRICTED, f"{OURS},app.kubernetes.io/component=settings")
        return {one["data"].get("STREAMO_LLM__MAX_SESSIONS") for one in maps}

    def hashes() -> list[str]:
        deployments = server.listed("apps/v1", "Deployment", RESTRICTED, OURS)
        gateway = next(one for one in deployments if one["metadata"]["name"] == "streamo-gateway")
        return gateway["spec"]["template"]["metadata"]["annotations"]["checksum/settings"]

    given = values_of(profile)
    try:
        installed = helm(server, "install", "streamo", str(CHART), *given)
        assert installed.returncode == 0, installed.stderr
        assert stored(server, profile) == rendered(profile)
        before = hashes()

        upgraded = helm(
            server, "upgrade", "streamo", str(CHART), *given, "--set", "settings.llm.max_sessions=7"
        )
        assert upgraded.returncode == 0, upgraded.stderr
        # The topics' job of this revision in place of the last one's.
        assert stored(server, profile) == rendered(profile, revision=2)
        assert sessions() == {"7"}
        # So that pods are rolled out anew.
        assert hashes() != before

        back = helm(server, "rollback", "streamo", "1")
        assert back.returncode == 0, back.stderr
        assert stored(server, profile) == rendered(profile)
        assert sessions() == {None}
        assert hashes() == before
    finally:
        removed = helm(server, "uninstall", "streamo")
    assert removed.returncode == 0, removed.stderr
    assert stored(server, profile) == set()


def test_helm_test_makes_every_test_pod_and_takes_their_word(server: KubeServer) -> None:
    """A thread stands in for the kubelet, and reports what each pod came to."""
    hooks = {one["metadata"]["name"] for one in of_kind("dev", "Pod")}
    made: set[str] = set()

    def run(phase: str) -> subprocess.CompletedProcess[str]:
        done = threading.Event()

        def report() -> None:
            while not done.wait(0.2):
                for pod in server.listed("v1", "Pod", RESTRICTED, OURS):
                    name = pod["metadata"]["name"]
                    made.add(name)
                    if pod["status"]["phase"] == "Pending":
                        server.report_pod(name, RESTRICTED, phase)

        kubelet = threading.Thread(target=report)
        kubelet.start()
        try:
            return helm(server, "test", "streamo", "--timeout", "60s")
        finally:
            done.set()
            kubelet.join()

    installed = helm(server, "install", "streamo", str(CHART), *values_of("dev"))
    assert installed.returncode == 0, installed.stderr
    try:
        assert run("Failed").returncode != 0
        # Those that succeed are removed, those that failed stay until the next try.
        well = run("Succeeded")
        assert well.returncode == 0, well.stdout + well.stderr
        assert made == hooks
    finally:
        assert helm(server, "uninstall", "streamo").returncode == 0


def test_a_value_of_a_wrong_kind_that_the_schema_leaves_to_kubernetes_is_refused_by_its_path(
    server: KubeServer,
) -> None:
    wrong = ("--set-json", 'gateway.affinity={"podAntiAffinity":"everywhere"}')
    refused = helm(server, "install", "streamo", str(CHART), *values_of("dev"), *wrong)
    assert refused.returncode != 0
    assert "podAntiAffinity" in refused.stderr
    helm(server, "uninstall", "streamo", "--ignore-not-found")


def test_without_an_operator_s_definitions_the_chart_says_which_is_missing(
    server: KubeServer, tmp_path: Path
) -> None:
    with KubeServer(TOOLS / "bin", tmp_path) as bare:
        bare.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RESTRICTED}})
        refused = helm(bare, "install", "streamo", str(CHART), *values_of("dev"))
    assert refused.returncode != 0
    assert any(f"needs the API {api}" in refused.stderr for api in APIS)
