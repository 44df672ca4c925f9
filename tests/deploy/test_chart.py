"""The chart without a cluster: rendered by Helm for each profile, and every object looked at."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import jsonschema
import pytest
import typer
import yaml
from ray.serve.schema import ServeDeploySchema

from services.cli.main import app as cli
from services.shared.settings import PREFIX, Settings
from services.shared.topics import MAX_RECORD_BYTES
from tests.deploy import golden
from tests.deploy.chart import (
    APIS,
    CHART,
    GIVEN,
    PROFILES,
    ROOT,
    TOOLS,
    containers,
    containers_of,
    helm,
    known,
    named,
    needs_helm,
    objects,
    objects_in,
    of_kind,
    pods,
    pods_in,
    profiles,
    settings_in,
    settings_of,
    template,
    values_of,
)


@needs_helm
@profiles
def test_lint_finds_nothing(profile: str):
    done = helm("lint", "--strict", "--quiet", str(CHART), "--kube-version", "1.33.0", *values_of(profile))
    complaints = [line for line in done.stdout.splitlines() if re.match(r"\[(WARNING|ERROR)\]", line)]
    # Lint knows no operators, and cannot be told of them.
    assert not [line for line in complaints if "needs the API" not in line], done.stdout + done.stderr


def test_the_schema_is_what_its_source_makes():
    made = subprocess.run(
        [sys.executable, "infra/chart_schema.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == (CHART / "values.schema.json").read_text()


def test_the_table_of_values_is_what_its_source_makes():
    made = subprocess.run(
        [sys.executable, "infra/chart_docs.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == (CHART / "VALUES.md").read_text()


def values_with(path: tuple[str, ...], value: object) -> dict:
    """The chart's values with one replaced or added."""
    # Through JSON, since what YAML's anchors name is one object in several places.
    values = json.loads(json.dumps(yaml.safe_load((CHART / "values.yaml").read_text())))
    inner = values
    for name in path[:-1]:
        inner = inner.setdefault(name, {})
    inner[path[-1]] = value
    return dict(values)


@cache
def validator() -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator(json.loads((CHART / "values.schema.json").read_text()))


def closed_objects(schema: dict, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if schema.get("additionalProperties") is not False:
        return []
    inner = [one for name, of in schema["properties"].items() for one in closed_objects(of, (*path, name))]
    return [path, *inner]


def test_no_block_of_values_takes_a_name_that_it_does_not_know():
    assert not list(validator().iter_errors(values_with(("nameOverride",), "")))
    blocks = closed_objects(validator().schema)
    assert len(blocks) > 50
    for block in blocks:
        errors = list(validator().iter_errors(values_with((*block, "no_such_value"), 1)))
        assert ["'no_such_value' was unexpected" in error.message for error in errors] == [True], block


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        ("ingest.replicas", 0),
        ("ingest.replicas", "two"),
        ("gateway.autoscaling.targetCPUUtilizationPercentage", 101),
        ("gateway.terminationGracePeriodSeconds", -1),
        ("rayWorker.resources.limits", ["nvidia.com/gpu"]),
        ("rayWorker.tolerations", {}),
        ("rayWorker.pdb.maxUnavailable", "50%"),
        ("rayWorker.pdb.maxUnavailable", -1),
        ("ray.sharedMemory", "1.5Gi"),
        ("ray.sharedMemory", "1000000000"),
        ("ray.sharedMemory", "0Gi"),
        ("ray.sharedMemory", "83Mi"),
        ("kafka.mode", "embedded"),
        ("kafka.port", 0),
        ("kafka.strimzi.nodes", 0),
        ("cameras.ports", []),
        ("cameras.ports", [70000]),
        ("telemetry.otlpEndpoint", "collector"),
        ("telemetry.tracesEndpoint", "tempo"),
        ("monitoring.board", "yes"),
        ("ray.auth.mode", "none"),
        ("image.pullPolicy", "Sometimes"),
        ("settings.llm.attention", "flash"),
        ("settings.model.num_threads", 0),
        ("settings.telemetry.trace_ratio", 1.5),
        ("settings.ingest.pixel_format", "png"),
    ],
)
def test_a_value_of_a_wrong_kind_or_out_of_bounds_is_refused_where_it_stands(path: str, wrong: object):
    names = tuple(path.split("."))
    errors = list(validator().iter_errors(values_with(names, wrong)))
    assert errors
    assert all(tuple(error.absolute_path)[: len(names)] == names for error in errors)


@needs_helm
@pytest.mark.parametrize(
    "value",
    [
        "settings.llm.num_replica=2",
        "settings.kafka.partitions=0",
        "settings.redis.url=redis://user:password@host",
        "ingest.replica=2",
        "image.tag=latest",
        "ingest.image.digest=abc",
        "cameras.allowedCIDRs={anywhere}",
        "redisMode=none",
        "ray.upgradeStrategy=Sometimes",
    ],
)
def test_a_wrong_value_is_refused_by_its_name(value: str):
    assert template(*values_of("dev")).returncode == 0
    done = template(*values_of("dev"), "--set", value)
    assert done.returncode != 0
    *path, name = value.split("=")[0].split(".")
    assert name in done.stderr or path[-1] in done.stderr


@needs_helm
@pytest.mark.parametrize("missing", GIVEN)
def test_what_has_to_be_given_is_asked_for(missing: str):
    done = template(*(text for value in GIVEN if value != missing for text in ("--set", value)))
    assert done.returncode != 0
    assert missing.split("=")[0] in done.stderr


@needs_helm
@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("kafka.credentials.passwordSecret=", "passwordSecret: settings.kafka.security_protocol is SASL_SSL"),
        ("settings.kafka.security_protocol=SSL", "passwordSecret: a password is for"),
        ("redisExternal.url=redis://redis:6379/0", "redisExternal.url: with redisExternal.credentials"),
        ("gatewayTls.certSecret=", "gatewayTls.certSecret: gatewayTls.clientCaSecret is given"),
        ("redisExternal.url=rediss://streamo:canary@redis:6379/0", "redisExternal"),
        ("telemetry.credentials.caSecret=theirs", "telemetry.otlpEndpoint: with telemetry.credentials"),
    ],
)
def test_security_that_does_not_go_together_is_refused(value: str, told: str):
    assert template(*values_of("prod")).returncode == 0
    done = template(*values_of("prod"), "--set", value)
    assert done.returncode != 0
    assert told in done.stderr


def mounted(pod: dict, container: dict) -> dict[str, set[tuple[str, str]]]:
    """path of a mounted file: the Secrets and keys that it is from."""
    volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes", [])}
    found: dict[str, set[tuple[str, str]]] = {}
    for mount in container.get("volumeMounts", []):
        for source in volumes[mount["name"]].get("projected", {}).get("sources", []):
            assert mount["readOnly"] is True
            for item in source["secret"]["items"]:
                path = f"{mount['mountPath']}/{item['path']}"
                found.setdefault(path, set()).add((source["secret"]["name"], item["key"]))
    return found


@needs_helm
@pytest.mark.parametrize("profile", ["prod", "gpu"])
def test_production_speaks_tls_with_passwords_and_certificates_everywhere(profile: str):
    data = settings_of(profile)
    assert data["STREAMO_KAFKA__SECURITY_PROTOCOL"] == "SASL_SSL"
    assert data["STREAMO_KAFKA__SASL_MECHANISM"] == "SCRAM-SHA-512"
    assert data["STREAMO_REDIS__URL"].startswith("rediss://streamo@")
    assert data["STREAMO_GATEWAY__TLS_CLIENT_CA_PATH"]
    cluster = named(profile, "RayService", "streamo")["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    needs = {
        "streamo-ingest": {"KAFKA"},
        "streamo-topics-1": {"KAFKA"},
        "streamo-test-topics": {"KAFKA"},
        "streamo-gateway": {"KAFKA", "GATEWAY"},
        "ray-head": {"KAFKA", "REDIS"},
        "ray-worker-model": {"KAFKA", "REDIS"},
    }
    for name, pod in pods(profile).items():
        files = mounted(pod, pod["spec"]["containers"][0])
        sections = needs.get(name, set())
        named_files = {
            value
            for variable, value in data.items()
            if variable.endswith("_PATH")
            and value.startswith("/etc/streamo/")
            and variable.split("__")[0].removeprefix(PREFIX) in sections
        }
        # Every file that a service's settings name is there, and nobody holds another.
        assert set(files) == named_files, name
        assert all(len(sources) == 1 for sources in files.values())
    gateway = mounted(pods(profile)["streamo-gateway"], containers_of(profile, "streamo-gateway")[0])
    assert gateway["/etc/streamo/gateway/tls.key"] == {("streamo-gateway-tls", "tls.key")}
    assert gateway["/etc/streamo/gateway/ca.crt"] == {("streamo-gateway-clients", "ca.crt")}
    assert gateway["/etc/streamo/kafka/password"] == {("streamo-kafka", "password")}


@needs_helm
def test_strimzi_makes_each_service_a_user_of_its_own(monkeypatch: pytest.MonkeyPatch):
    secure = ("settings.kafka.security_protocol=SASL_SSL", "settings.kafka.sasl_mechanism=SCRAM-SHA-512")
    given = [text for value in (*secure, "settings.kafka.prefix=a-") for text in ("--set", value)]
    made = objects_in(template(*values_of("dev"), *given))
    kafka = next(one for one in made if one["kind"] == "Kafka")["spec"]
    (listener,) = kafka["kafka"]["listeners"]
    assert listener["tls"] is True
    assert listener["authentication"] == {"type": "scram-sha-512"}
    assert kafka["kafka"]["authorization"] == {"type": "simple"}
    assert "userOperator" in kafka["entityOperator"]
    users = {one["metadata"]["name"]: one for one in made if one["kind"] == "KafkaUser"}
    assert set(users) == {f"streamo-{name}" for name in ("topics", "ingest", "model", "gateway")}
    rights = {
        (rule["resource"]["type"], rule["resource"]["name"], operation)
        for rule in users["streamo-ingest"]["spec"]["authorization"]["acls"]
        for operation in rule["operations"]
    }
    assert ("topic", "a-frames", "Write") in rights
    assert ("topic", "a-events", "Write") not in rights
    schema = custom_schemas().get(("kafka.strimzi.io/v1", "KafkaUser"))
    for name, one in users.items():
        assert one["metadata"]["labels"]["strimzi.io/cluster"] == "streamo", name
        assert schema is None or not list(jsonschema.Draft7Validator(schema).iter_errors(one)), name
    settings = settings_in(made)
    seen = set()
    for name, pod in pods_in(made).items():
        container = pod["spec"]["containers"][0]
        own = {
            one["name"]: one["value"] for one in container.get("env", []) if one["name"].startswith(PREFIX)
        }
        if not own:
            continue
        with monkeypatch.context() as patch:
            for variable, value in {**settings, **own}.items():
                patch.setenv(variable, value)
            loaded = Settings.load().kafka
        seen.add(loaded.username)
        files = mounted(pod, container)
        assert files[loaded.password_path] == {(loaded.username, "password")}, name
        assert files[loaded.tls_ca_path] == {("streamo-cluster-ca-cert", "ca.crt")}, name
    assert seen == set(users)


@needs_helm
def test_a_client_certificate_for_kafka_is_mounted_and_named():
    done = template(*values_of("prod"), "--set", "kafka.credentials.certSecret=us")
    assert settings_in(objects_in(done))["STREAMO_KAFKA__TLS_KEY_PATH"] == "/etc/streamo/kafka/tls.key"
    assert (
        done.stdout.count("name: us, items: [{key: tls.crt, path: tls.crt}, {key: tls.key, path: tls.key}]")
        == 6
    )


@needs_helm
def test_the_certificates_for_a_collector_are_mounted_by_every_pod_that_sends():
    given = {
        "telemetry.otlpEndpoint": "https://collector.example:4317",
        "telemetry.credentials.caSecret": "theirs",
        "telemetry.credentials.certSecret": "us",
    }
    values = [text for pair in given.items() for text in ("--set", "=".join(pair))]
    made = objects_in(template(*values_of("prod"), *values))
    settings = settings_in(made)
    expected = {"/etc/streamo/telemetry/ca.crt": {("theirs", "ca.crt")}} | {
        f"/etc/streamo/telemetry/{name}": {("us", name)} for name in ("tls.crt", "tls.key")
    }
    paths = [settings[f"STREAMO_TELEMETRY__TLS_{name}_PATH"] for name in ("CA", "CERT", "KEY")]
    assert paths == list(expected)
    sending = {
        name
        for name, pod in pods_in(made).items()
        if mounted(pod, pod["spec"]["containers"][0]).items() >= expected.items()
    }
    assert sending == {"streamo-ingest", "streamo-gateway", "ray-head", "ray-worker-model"}


@needs_helm
@pytest.mark.parametrize(("profile", "api"), [("dev", APIS[0]), ("dev", APIS[1]), ("prod", APIS[2])])
def test_a_missing_operator_is_told(profile: str, api: str):
    done = template(*values_of(profile), apis=tuple(one for one in APIS if one != api))
    assert done.returncode != 0
    assert f"needs the API {api}" in done.stderr


@needs_helm
@profiles
def test_objects_of_kubernetes_own_kinds_are_valid(profile: str, tmp_path: Path):
    validate = TOOLS / "venv/bin/kubernetes-validate"
    if not validate.exists():
        pytest.skip("no kubernetes-validate: make deploy-tools")
    own = [one for one in objects(profile) if not one["apiVersion"].startswith(APIS)]
    path = tmp_path / "objects.yaml"

    def check() -> subprocess.CompletedProcess[str]:
        path.write_text(yaml.safe_dump_all(own))
        return subprocess.run(
            [validate, "--kubernetes-version", "1.33", "--strict", path],
            capture_output=True,
            text=True,
            timeout=60,
        )

    done = check()
    assert done.returncode == 0, done.stdout + done.stderr
    own[0]["spec"]["podSelectors"] = {}
    assert check().returncode != 0


def strict(schema: dict) -> dict:
    """A CRD's schema that refuses fields it does not name, as the API server does under strict validation."""
    if not isinstance(schema, dict):
        return schema
    made = {key: value for key, value in schema.items() if key not in ("description", "format", "default")}
    if "properties" in made:
        made["properties"] = {key: strict(value) for key, value in made["properties"].items()}
        if not made.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in made:
            made["additionalProperties"] = False
    if isinstance(made.get("items"), dict):
        made["items"] = strict(made["items"])
    if isinstance(made.get("additionalProperties"), dict):
        made["additionalProperties"] = strict(made["additionalProperties"])
    if made.pop("x-kubernetes-int-or-string", False):
        made = {"type": ["integer", "string"]}
    return made


@cache
def custom_schemas() -> dict[tuple[str, str], dict]:
    """(apiVersion, kind): its schema, of all CRDs at hand."""
    found = {}
    for path in (TOOLS / "crds").glob("*.yaml"):
        for crd in yaml.load_all(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = version["schema"]["openAPIV3Schema"]
                schema["properties"]["metadata"] = {
                    "type": "object",
                    "x-kubernetes-preserve-unknown-fields": True,
                }
                found[f"{spec['group']}/{version['name']}", spec["names"]["kind"]] = strict(schema)
    return found


@needs_helm
@pytest.mark.parametrize(
    ("profile", "kind"),
    [
        *((profile, "RayService") for profile in PROFILES),
        ("dev", "Kafka"),
        ("dev", "KafkaNodePool"),
        ("prod", "ServiceMonitor"),
        ("prod", "PrometheusRule"),
    ],
)
def test_custom_objects_are_what_their_operators_take(profile: str, kind: str):
    made = json.loads(json.dumps(named(profile, kind, "streamo")))
    schema = custom_schemas().get((made["apiVersion"], kind))
    if schema is None:
        pytest.skip(f"no CRD of {kind}: see make deploy-tools")
    validator = jsonschema.Draft7Validator(schema)
    assert not [f"{error.json_path}: {error.message}" for error in validator.iter_errors(made)]
    made["spec"]["sizes"] = 1
    assert list(validator.iter_errors(made))


@needs_helm
@profiles
def test_serve_takes_its_configuration(profile: str):
    text = named(profile, "RayService", "streamo")["spec"]["serveConfigV2"]
    config = ServeDeploySchema.model_validate(yaml.safe_load(text))
    (application,) = config.applications
    module, _, function = application.import_path.partition(":")
    assert hasattr(importlib.import_module(module), function)
    assert application.route_prefix is None
    assert application.args == {}
    assert config.proxy_location == "Disabled"


@needs_helm
@profiles
def test_every_pod_passes_pod_security_restricted(profile: str):
    for name, pod in pods(profile).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for volume in spec.get("volumes", []):
            kinds = set(volume) - {"name"}
            assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"}, name
        for one in spec["containers"] + spec.get("initContainers", []):
            security = one["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert not any("hostPort" in port for port in one.get("ports", []))


@needs_helm
@profiles
def test_pods_hold_no_token_and_are_told_of_no_service(profile: str):
    for name, pod in pods(profile).items():
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        # A Service streamo-... would become a variable STREAMO_..., which Settings.load refuses.
        assert pod["spec"]["enableServiceLinks"] is False, name
        assert pod["spec"]["terminationGracePeriodSeconds"] >= 30


@needs_helm
@profiles
def test_every_lasting_container_has_probes_and_bounds(profile: str):
    short = {"streamo-topics-1"} | {name for name in pods(profile) if "-test-" in name}
    for name, one in containers(profile):
        assert one["resources"]["requests"]["memory"], name
        assert one["resources"]["limits"]["memory"], name
        if name not in short:
            assert "readinessProbe" in one, name
            assert "livenessProbe" in one, name
    gateway = pods(profile)["streamo-gateway"]["spec"]["containers"][0]
    # Probes speak no TLS.
    health_port = int(settings_of(profile)["STREAMO_GATEWAY__HEALTH_PORT"])
    assert gateway["readinessProbe"]["grpc"] == {"port": health_port}
    assert "tcpSocket" in gateway["livenessProbe"]


@needs_helm
@profiles
def test_probes_of_ingest_look_at_the_file_that_it_touches(profile: str, tmp_path: Path):
    path = settings_of(profile)["STREAMO_INGEST__HEARTBEAT_PATH"]
    ingest = pods(profile)["streamo-ingest"]["spec"]["containers"][0]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        command = ingest[kind]["exec"]["command"]
        assert path in command[-1]
        heartbeat = tmp_path / kind
        here = [part.replace(path, str(heartbeat)) for part in command]
        assert subprocess.run(here, stderr=subprocess.DEVNULL).returncode != 0, "no file"
        heartbeat.touch()
        assert subprocess.run(here).returncode == 0, "a fresh one"
        subprocess.run(["touch", "--date", "-3 minutes", heartbeat], check=True)
        assert subprocess.run(here).returncode != 0, "an old one"


@needs_helm
@profiles
def test_images_are_pinned(profile: str):
    for name, one in containers(profile):
        assert re.search(r":\d+\.\d+\.\d+[\w.-]*$|@sha256:[0-9a-f]{64}$", one["image"]), (
            f"{name}: {one['image']}"
        )


@needs_helm
def test_a_digest_wins_over_the_tag():
    digest = "sha256:" + 64 * "0"
    done = template(*values_of("dev"), "--set", f"gateway.image.digest={digest}")
    assert f"image: registry.example/streamo/gateway@{digest}\n" in done.stdout


@needs_helm
@profiles
def test_settings_are_known_and_taken(profile: str, monkeypatch: pytest.MonkeyPatch):
    data = settings_of(profile)
    assert set(data) <= set(Settings.variables())
    for name, value in data.items():
        assert isinstance(value, str)
        monkeypatch.setenv(name, value)
    loaded = Settings.load()
    assert loaded.gateway.host == "0.0.0.0"
    # As Ray builds the application: from no arguments, in a pod's environment.
    assert Settings.model_validate({}) == loaded
    for name, one in containers(profile):
        for variable in one.get("env", []):
            if variable["name"].startswith(PREFIX):
                assert variable["name"] in Settings.variables(), name


@needs_helm
@pytest.mark.parametrize(
    ("value", "variable", "expected"),
    [
        ("settings.llm.max_kv_tokens=123456789", "STREAMO_LLM__MAX_KV_TOKENS", "123456789"),
        ("settings.ingest.file_roots={/clips}", "STREAMO_INGEST__FILE_ROOTS", '["/clips"]'),
        # Helm takes a number with a point for a text unless it comes as JSON or from a file.
        ("settings.llm.commit_period_s=0.25", "STREAMO_LLM__COMMIT_PERIOD_S", "0.25"),
    ],
)
def test_values_of_settings_arrive_as_they_were_given(value: str, variable: str, expected: str):
    done = template(*values_of("dev"), "--set-json" if "." in expected else "--set", value)
    assert settings_in(objects_in(done))[variable] == expected


@needs_helm
@profiles
def test_no_file_of_the_pod_may_be_a_stream_but_those_that_compose_allows(profile: str):
    """Else whoever may add a stream may have ingest open its mounted passwords."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["ingest"]["environment"]
    assert settings_of(profile)["STREAMO_INGEST__FILE_ROOTS"] == compose["STREAMO_INGEST__FILE_ROOTS"]


@needs_helm
@profiles
def test_secrets_are_named_and_never_held(profile: str):
    assert not of_kind(profile, "Secret")
    for name, one in containers(profile):
        for variable in one.get("env", []):
            if re.search("URL|PASSWORD|TOKEN|SECRET", variable["name"]):
                assert "secretKeyRef" in variable["valueFrom"], name
    # Secrets come as files, and the ConfigMap says where.
    assert not [
        key for key in settings_of(profile) if re.search("PASSWORD|KEY|SECRET", key) and "_PATH" not in key
    ]


@needs_helm
@profiles
def test_every_selector_selects(profile: str):
    labels = {name: pod["metadata"]["labels"] for name, pod in pods(profile).items()}

    def selected(selector: dict) -> set[str]:
        return {name for name, ours in labels.items() if selector.items() <= ours.items()}

    for one in objects(profile):
        name, spec = one["metadata"]["name"], one.get("spec", {})
        if one["kind"] == "Deployment":
            assert selected(spec["selector"]["matchLabels"]) == {name}
        elif one["kind"] == "Service":
            assert len(selected(spec["selector"])) == 1, name
            (pod,) = selected(spec["selector"])
            ports = {port["name"] for port in pods(profile)[pod]["spec"]["containers"][0]["ports"]}
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif one["kind"] == "PodDisruptionBudget":
            assert len(selected(spec["selector"]["matchLabels"])) == 1, name
        elif one["kind"] == "HorizontalPodAutoscaler":
            target = named(profile, "Deployment", spec["scaleTargetRef"]["name"])
            assert "replicas" not in target["spec"], name
            assert spec["minReplicas"] <= spec["maxReplicas"]
        elif one["kind"] == "ServiceMonitor":
            services = [
                service for service in of_kind(profile, "Service")
                if spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
            ]  # fmt: skip
            assert len(services) == 1
            assert spec["endpoints"][0]["port"] in {port["name"] for port in services[0]["spec"]["ports"]}


@needs_helm
@pytest.mark.parametrize(
    ("values", "least"),
    [
        (["replicas=3"], 2),
        (["replicas=3", "pdb.maxUnavailable=0"], 3),
        (["replicas=1", "pdb.maxUnavailable=2"], 0),
        # Pods that Ray's autoscaler may take away anyway are none to be kept.
        (["replicas=9", "autoscaling.enabled=true", "autoscaling.minReplicas=4"], 3),
    ],
)
def test_a_disruption_budget_of_ray_workers_is_a_number_of_pods_that_stay(values: list[str], least: int):
    """For `maxUnavailable` Kubernetes asks a RayCluster for its scale: it has none, and no node could be drained."""
    given = [text for value in values for text in ("--set", f"rayWorker.{value}")]
    made = objects_in(template(*values_of("dev"), *given))
    specs = {one["metadata"]["name"]: one["spec"] for one in made if one["kind"] == "PodDisruptionBudget"}
    assert specs["streamo-ray-worker"]["minAvailable"] == least
    assert "maxUnavailable" not in specs["streamo-ray-worker"]
    assert specs["streamo-ingest"]["maxUnavailable"] == 1


def num_bytes(quantity: str) -> int:
    return int(quantity[:-2]) * {"Mi": 1 << 20, "Gi": 1 << 30}[quantity[-2:]]


@needs_helm
@profiles
def test_ray_s_objects_fit_into_shared_memory_and_that_into_the_pod_s(profile: str):
    """Else Ray keeps them in a file on disk, or does not start. Kubernetes makes /dev/shm no larger than the pod."""
    cluster = named(profile, "RayService", "streamo")["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        spec = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        size = num_bytes(volumes["shared-memory"]["emptyDir"]["sizeLimit"])
        assert size < num_bytes(spec["containers"][0]["resources"]["limits"]["memory"])
        # KubeRay takes texts.
        assert group["rayStartParams"]["object-store-memory"] == str(size * 9 // 10)


@needs_helm
@pytest.mark.parametrize("size", ["100Mi", "1500Mi", "2000Gi"])
def test_a_worker_s_shared_memory_is_as_large_as_is_asked_for(size: str):
    made = objects_in(template(*values_of("dev"), "--set", f"ray.sharedMemory={size}"))
    service = next(one for one in made if one["kind"] == "RayService")
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
    assert volumes["shared-memory"]["emptyDir"]["sizeLimit"] == size
    assert group["rayStartParams"]["object-store-memory"] == str(num_bytes(size) * 9 // 10)


def policies(profile: str) -> dict[str, dict]:
    """component: the NetworkPolicy of its pods."""
    return {
        one["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]: one["spec"]
        for one in of_kind(profile, "NetworkPolicy")
    }


@needs_helm
@profiles
def test_every_pod_is_closed_in_by_a_policy(profile: str):
    found = policies(profile)
    for pod in pods(profile).values():
        component = pod["metadata"]["labels"]["app.kubernetes.io/component"]
        if component != "test":
            assert found[component]["policyTypes"] == ["Ingress", "Egress"], component


@needs_helm
@profiles
def test_nobody_reaches_ray_but_ray_and_the_operator(profile: str):
    for component in ("ray-head", "ray-worker"):
        among_itself, operator = policies(profile)[component]["ingress"]
        peers = {
            one["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for one in among_itself["from"]
        }
        assert peers == {"ray-head", "ray-worker"}
        (peer,) = operator["from"]
        assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}
        # Neither the control store nor the client's port.
        assert not {6379, 10001} & {port["port"] for port in operator["ports"]}


@needs_helm
@profiles
def test_ingest_reaches_cameras_kafka_names_and_the_collector_alone(profile: str):
    spec = policies(profile)["ingest"]
    assert "ingress" not in spec
    for rule in spec["egress"]:
        ports = {port["port"] for port in rule["ports"]}
        if ports & {53, 4317, 9092}:
            continue
        for peer in rule["to"]:
            cidr = peer.get("ipBlock", {}).get("cidr")
            labels = peer.get("podSelector", {}).get("matchLabels", {})
            assert cidr == "10.1.0.0/16" or labels.get("app.kubernetes.io/component") == "camera"
    text = json.dumps(spec["egress"])
    assert ("10.1.0.0/16" in text) == (profile == "prod")


@needs_helm
@profiles
def test_a_worker_has_room_for_one_replica_of_each_and_no_more(profile: str):
    """Exactly, so that pods come and go as the replicas do."""
    (group,) = named(profile, "RayService", "streamo")["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    given = settings_of(profile)

    def number(name: str, default: float) -> float:
        return float(given.get("STREAMO_" + name, default))

    cpus = 2 * number("MODEL__NUM_THREADS", 1)
    gpus = number("ENCODER__NUM_GPUS", 0) + number("LLM__NUM_GPUS", 0)
    if profile == "gpu":
        assert gpus == pytest.approx(float(limits["nvidia.com/gpu"]))
        # Several encoders would fit onto one GPU, and an LLM replica no more.
        assert number("ENCODER__MAX_REPLICAS_PER_NODE", 0) == 1
        assert cpus <= float(limits["cpu"])
    else:
        assert gpus == 0
        assert cpus == float(limits["cpu"])
    for bound in ("min", "max"):
        replicas = group[f"{bound}Replicas"]
        assert number(f"ENCODER__{bound}_REPLICAS".upper(), 1) == replicas
        assert number(f"LLM__{bound}_REPLICAS".upper(), 1) == replicas
        assert replicas <= number("KAFKA__PARTITIONS", 8)
    assert (gpus > 0) == (profile == "gpu") == (given.get("STREAMO_MODEL__DEVICE") == "cuda")


@needs_helm
@profiles
def test_pods_are_scaled_where_replicas_are_and_the_autoscaler_alone_gets_a_token(profile: str):
    cluster = named(profile, "RayService", "streamo")["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    given = settings_of(profile)
    scaled = {
        name: given.get(f"STREAMO_{name}__MIN_REPLICAS") != given.get(f"STREAMO_{name}__MAX_REPLICAS")
        for name in ("ENCODER", "LLM")
    }
    is_scaled = group["minReplicas"] < group["maxReplicas"]
    assert cluster.get("enableInTreeAutoscaling", False) is is_scaled is (profile in ("prod", "gpu"))
    assert set(scaled.values()) == {is_scaled}
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    token = "/var/run/secrets/kubernetes.io/serviceaccount"
    for name, one in containers(profile):
        assert token not in {mount["mountPath"] for mount in one.get("volumeMounts", [])}, name
    api_server = {"protocol": "TCP", "port": 443}
    reaching = {name for name, spec in policies(profile).items() if api_server in _ports(spec)}
    assert reaching == ({"ray-head"} if is_scaled else set())
    if is_scaled:
        options, head = cluster["autoscalerOptions"], cluster["headGroupSpec"]["template"]["spec"]
        assert options["securityContext"]["readOnlyRootFilesystem"] is True
        mounts = {mount["mountPath"]: mount["name"] for mount in options["volumeMounts"]}
        assert set(mounts) == {"/tmp", token}
        assert set(mounts.values()) <= {volume["name"] for volume in head["volumes"]}


def _ports(policy: dict) -> list[dict]:
    return [port for rule in policy.get("egress", []) for port in rule.get("ports", [])]


@needs_helm
def test_the_checkpoint_is_mounted_where_it_is_read():
    assert settings_of("gpu")["STREAMO_MODEL__PATH"] == "/model"
    for name, one in containers("gpu"):
        mounted = {mount["name"]: mount for mount in one.get("volumeMounts", [])}
        if name in ("streamo-ingest", "ray-head", "ray-worker-model"):
            assert mounted["checkpoint"]["mountPath"] == "/model"
            assert mounted["checkpoint"]["readOnly"] is True
        else:
            assert "checkpoint" not in mounted
    assert "STREAMO_MODEL__PATH" not in settings_of("prod")


@needs_helm
@profiles
def test_every_mount_has_its_volume_and_tmp_can_be_written(profile: str):
    for name, pod in pods(profile).items():
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for one in pod["spec"]["containers"]:
            mounts = one.get("volumeMounts", [])
            assert {mount["name"] for mount in mounts} <= volumes, name
            if "streamo/" in one["image"]:
                assert any(mount["mountPath"] == "/tmp" for mount in mounts), name


@needs_helm
@profiles
def test_commands_are_modules_of_ours(profile: str):
    modules = [
        one["command"][2] for _, one in containers(profile) if one.get("command", [])[:2] == ["python", "-m"]
    ]
    assert modules
    for module in modules:
        assert importlib.util.find_spec(module) is not None


@needs_helm
def test_strimzi_s_broker_is_configured_as_compose_s():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["kafka"]["environment"]
    config = named("dev", "Kafka", "streamo")["spec"]["kafka"]["config"]
    for name in (
        "auto.create.topics.enable",
        "message.max.bytes",
        "group.initial.rebalance.delay.ms",
        "transaction.abort.timed.out.transaction.cleanup.interval.ms",
    ):
        variable = "KAFKA_" + name.replace(".", "_").upper()
        assert json.dumps(config[name]) == compose[variable], name
    assert config["message.max.bytes"] == MAX_RECORD_BYTES


def test_versions_are_those_of_the_project():
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert f'\nversion = "{chart["appVersion"]}"' in (ROOT / "pyproject.toml").read_text()
    assert f"\nray=={values['ray']['version']} " in (ROOT / "infra/locks/model.lock").read_text()
    jars = (ROOT / "services/local/kafka_jars.lock").read_text()
    assert f"kafka_2.13:{values['kafka']['strimzi']['version']} " in jars


COMPONENTS = ("ingest", "gateway", "rayHead", "rayWorker", "redis", "collector", "camera")
# A value of each kind that no profile has.
OTHER: dict[str, object] = {
    "enabled": False,
    "replicas": 7,
    "image.repository": "elsewhere.example/other",
    "image.tag": "9.9.9",
    "image.digest": "sha256:" + 64 * "0",
    "resources.requests": {"cpu": "77m"},
    "resources.limits": {"memory": "77Mi"},
    "podAnnotations": {"other": "other"},
    "nodeSelector": {"other": "other"},
    "tolerations": [{"key": "other"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 7}],
    "priorityClassName": "other",
    "runtimeClassName": "other",
    "terminationGracePeriodSeconds": 77,
    "pdb.enabled": False,
    "pdb.maxUnavailable": 7,
    "autoscaling.enabled": True,
    "autoscaling.minReplicas": 2,
    "autoscaling.maxReplicas": 77,
    "autoscaling.targetCPUUtilizationPercentage": 77,
    "allowFrom": [{"podSelector": {"matchLabels": {"other": "other"}}}],
    "extraEnv": [{"name": "OTHER", "value": "other"}],
}


def value_paths(schema: dict, path: str = "") -> list[str]:
    """Of all values of a closed object, those within the closed ones of it."""
    if schema.get("additionalProperties") is not False:
        return [path]
    return [
        one
        for name, of in schema["properties"].items()
        for one in value_paths(of, f"{path}.{name}" if path else name)
    ]


@needs_helm
@pytest.mark.parametrize("component", COMPONENTS)
def test_every_value_of_a_component_changes_what_is_made(component: str):
    @cache
    def made(*values: str) -> str:
        given = [text for value in ("collector.enabled=true", *values) for text in ("--set-json", value)]
        done = template(*values_of("dev"), *given)
        assert done.returncode == 0, done.stderr
        return done.stdout

    paths = value_paths(validator().schema["properties"][component])
    assert len(paths) > 10
    for path in paths:
        is_detail = path.startswith("autoscaling.") and path != "autoscaling.enabled"
        base = [f"{component}.autoscaling.enabled=true"] if is_detail else []
        if path == "pdb.maxUnavailable":
            base = [f"{component}.replicas=9"]  # of one pod none has to stay, whatever it is
        assert made(*base) != made(*base, f"{component}.{path}={json.dumps(OTHER[path])}"), path


def test_every_value_is_in_the_schema_and_documented():
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = validator().schema["properties"]
    text = (CHART / "README.md").read_text()
    assert {name for name, value in values.items() if isinstance(value, dict) and "resources" in value} == {
        *COMPONENTS
    }
    for name, value in values.items():
        keys = [name]
        if name in COMPONENTS:
            assert set(value) == set(schema[name]["properties"]), name
            keys += value
        elif isinstance(value, dict) and name != "settings":
            keys = [f"{name}.{key}" for key in value]
        for key in keys:
            assert f"`{key}`" in text, key


@needs_helm
@profiles
def test_the_chart_renders_as_written_down(profile: str):
    """A change of the chart shows what it changes: `make chart-golden`, and look at the diff."""
    assert golden.render(profile) == golden.path(profile).read_text()


@needs_helm
@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_the_notes_tell_the_next_three_commands(profile: str, tmp_path: Path):
    # Helm shows notes at an install alone: a copy of the chart makes an object of them.
    copy = shutil.copytree(CHART, tmp_path / "streamo")
    (copy / "templates/told.yaml").write_text(
        'told: {{ include (print $.Template.BasePath "/NOTES.txt") . | quote }}\n'
    )
    shown = ("--kube-version", "1.33.0", "--show-only", "templates/told.yaml")
    done = helm("template", "streamo", str(copy), *shown, *known(APIS), *values_of(profile))
    assert done.returncode == 0, done.stderr
    told = yaml.safe_load(done.stdout)["told"]
    # The commands are of a program, Service and Deployment that are there.
    assert "port-forward deploy/streamo-gateway 50051" in told
    named(profile, "Deployment", "streamo-gateway")
    commands = set(typer.main.get_command(cli).commands)
    for command in re.findall(r"streamo (\w+) ?", told.split("3. Watch a camera:")[1]):
        assert command in commands, command
    assert ("rtsp://streamo-camera:8554/gate" in told) == (profile == "dev")
    assert ("cannot reach any camera" in told) is False
