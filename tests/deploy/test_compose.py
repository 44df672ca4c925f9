"""docker-compose.yml without a container engine: against the format's schema, and against the code."""

import importlib.util
import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from services.camera.__main__ import _parser as camera_parser
from services.local.kafka_broker import KafkaBroker
from services.local.ray_cluster import RayCluster
from services.shared.settings import PREFIX, Settings
from services.shared.topics import MAX_RECORD_BYTES
from tests.deploy.dockerfile import Dockerfile

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".cache" / "deploy-tools"
OURS = {"ingest", "topics", "model", "gateway", "camera"}


def dotenv() -> dict[str, str]:
    lines = (ROOT / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def filled(text: str, variables: dict[str, str]) -> str:
    """`text` with its ${NAME} and ${NAME:-default}; KeyError where .env knows none."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        return variables[name] if default is None else variables.get(name) or default

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, text)


def read(name: str) -> dict:
    return yaml.safe_load(filled((ROOT / name).read_text(), dotenv()))


@pytest.fixture(scope="module")
def compose() -> dict:
    return read("docker-compose.yml")


@pytest.fixture(scope="module")
def services(compose: dict) -> dict:
    return compose["services"]


def image_of(service: dict) -> str | None:
    """The image of ours that a service builds."""
    return Path(service["build"]["dockerfile"]).name.split(".")[0] if "build" in service else None


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.gpu.yml"])
def test_the_file_is_of_the_compose_format(name: str):
    path = TOOLS / "compose-spec.json"
    if not path.exists():
        pytest.skip("no compose schema: make deploy-tools")
    schema = json.loads(path.read_text())
    content = read(name)
    jsonschema.validate(content, schema)
    content["services"]["model"]["shm_sise"] = "1gb"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)


def test_every_variable_of_dotenv_is_used_and_none_is_a_secret():
    used = "".join((ROOT / name).read_text() for name in ("docker-compose.yml", "docker-compose.gpu.yml"))
    for name in dotenv():
        assert name.startswith("COMPOSE_") or "${" + name in used, name
        assert not re.search("PASSWORD|TOKEN|SECRET", name)


def test_images_are_pinned(services: dict):
    for name, service in services.items():
        _, _, tag = service["image"].rpartition(":")
        assert re.search(r"\d+\.\d+", tag), f"{name}: {service['image']}"
    assert f'\nversion = "{dotenv()["IMAGE_VERSION"]}"' in (ROOT / "pyproject.toml").read_text()


def test_the_broker_is_of_the_version_the_tests_run_against():
    jars = (ROOT / "services/local/kafka_jars.lock").read_text()
    assert f"org.apache.kafka:kafka_2.13:{dotenv()['KAFKA_IMAGE'].rpartition(':')[2]} " in jars


def test_the_base_is_that_of_the_dockerfiles(services: dict):
    for name in OURS:
        build = services[name]["build"]
        dockerfile = Dockerfile.read(ROOT / build["dockerfile"])
        assert build["args"] == dockerfile.arguments


def test_ports_are_on_loopback(services: dict):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_ours_are_confined(services: dict):
    for name in OURS:
        service = services[name]
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert any(mount.split(":")[0] == "/tmp" for mount in service["tmpfs"]), name


def test_settings_are_settings_and_are_taken(services: dict, monkeypatch: pytest.MonkeyPatch):
    seen = 0
    overlay = read("docker-compose.gpu.yml")["services"]
    for name in OURS & set(services):
        image = image_of(services[name])
        final = Dockerfile.read(ROOT / f"infra/images/{image}.Dockerfile").stages[-1]
        together = {
            **final.environment(),
            **services[name].get("environment", {}),
            **overlay.get(name, {}).get("environment", {}),
        }
        ours = {key: value for key, value in together.items() if key.startswith(PREFIX)}
        assert set(ours) <= set(Settings.variables()), name
        with monkeypatch.context() as patch:
            for key, value in ours.items():
                patch.setenv(key, value)
            settings = Settings.load()
        if ours and name != "camera":
            seen += 1
            assert settings.kafka.bootstrap_servers == "kafka:19092"
            assert settings.redis.url.startswith("redis://redis:")
    assert seen == 4


def test_addresses_are_those_that_are_listened_on(services: dict):
    kafka = services["kafka"]["environment"]
    assert "INSIDE://:19092" in kafka["KAFKA_LISTENERS"]
    assert "INSIDE://kafka:19092" in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert services["kafka"]["ports"] == ["127.0.0.1:9092:9092"]
    assert "HOST://127.0.0.1:9092" in kafka["KAFKA_ADVERTISED_LISTENERS"]
    port = Settings.model_construct().gateway.port
    assert services["gateway"]["ports"][0].endswith(f":{port}")
    gateway = Dockerfile.read(ROOT / "infra/images/gateway.Dockerfile").stages[-1]
    assert gateway.all("EXPOSE") == [str(port)]
    # On the port that never speaks TLS.
    health_port = gateway.environment()["STREAMO_GATEWAY__HEALTH_PORT"]
    assert f"127.0.0.1:{health_port}" in gateway.all("HEALTHCHECK")[0]
    collector = yaml.safe_load((ROOT / "infra/observability/collector.yaml").read_text())
    assert collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].endswith(":4317")
    assert "http://collector:4317" in (ROOT / ".env").read_text()


def test_waiting_for_health_waits_for_something_that_has_a_check(services: dict):
    for name, service in services.items():
        depends = service.get("depends_on", {})
        for other in depends:
            condition = depends[other]["condition"] if isinstance(depends, dict) else "service_started"
            assert other in services, f"{name} waits for {other}"
            if condition == "service_healthy":
                image = image_of(services[other])
                assert "healthcheck" in services[other] or image is not None, other
            if condition == "service_completed_successfully":
                assert services[other]["restart"] == "no", other
    for name in ("ingest", "gateway", "model"):
        assert services[name]["depends_on"]["topics"]["condition"] == "service_completed_successfully"
    assert services["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}


def test_commands_are_modules_of_ours_and_their_options_exist(services: dict):
    for name in OURS:
        final = Dockerfile.read(ROOT / services[name]["build"]["dockerfile"]).stages[-1]
        entry = final.command("ENTRYPOINT") if final.all("ENTRYPOINT") else []
        command = [*entry, *services[name].get("command", final.command("CMD"))]
        assert command[:2] == ["python", "-m"]
        found = importlib.util.find_spec(command[2])
        assert found is not None, command
        if found.submodule_search_locations is not None:
            assert importlib.util.find_spec(command[2] + ".__main__") is not None, command
        if name == "camera":
            camera_parser().parse_args(command[3:])
        if name == "model":
            source = Path(found.origin).read_text()
            for option in command[3::2]:
                assert f'"{option}"' in source


def test_kafka_is_configured_as_the_one_the_tests_run_against(services: dict, tmp_path: Path):
    tested = dict(line.split("=", 1) for line in KafkaBroker(tmp_path)._properties().splitlines())
    ours = services["kafka"]["environment"]
    as_variable = {"KAFKA_" + name.replace(".", "_").upper(): value for name, value in tested.items()}
    own_address = {
        "KAFKA_NODE_ID", "KAFKA_LISTENERS", "KAFKA_ADVERTISED_LISTENERS", "KAFKA_LOG_DIRS",
        "KAFKA_CONTROLLER_QUORUM_VOTERS",
    }  # fmt: skip
    for name in set(ours) & set(as_variable) - own_address:
        assert ours[name] == as_variable[name], name
    for needed in ("message.max.bytes", "auto.create.topics.enable", "group.initial.rebalance.delay.ms"):
        assert "KAFKA_" + needed.replace(".", "_").upper() in ours
    assert int(ours["KAFKA_MESSAGE_MAX_BYTES"]) == MAX_RECORD_BYTES


def test_the_model_s_ray_is_that_of_the_local_stack(services: dict, tmp_path: Path):
    final = Dockerfile.read(ROOT / "infra/images/model.Dockerfile").stages[-1]
    given = {**final.environment(), **services["model"]["environment"]}
    wanted = RayCluster(tmp_path, Settings.model_construct()).environment()
    token = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"}  # nobody else reaches the container's loopback
    for name in set(wanted) - token:
        assert given[name] == wanted[name], name


def test_the_overlay_holds_differences_only(services: dict):
    overlay = read("docker-compose.gpu.yml")
    assert set(overlay) == {"services"}
    for name, changed in overlay["services"].items():
        for key, value in changed.items():
            base = services[name].get(key)
            assert base != value
            if isinstance(value, dict) and isinstance(base, dict):
                assert not set(value.items()) & set(base.items())


def test_mounted_files_exist(compose: dict, services: dict):
    for service in services.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).exists(), source
            else:
                assert source in compose["volumes"], source
    assert (ROOT / dotenv()["MODEL_DIR"] / "streamo.json").exists()
