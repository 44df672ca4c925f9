import traceback

import pytest

from services.shared.errors import InvalidInput
from services.shared.settings import PREFIX, Settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    import os

    for name in list(os.environ):
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)


def test_a_variable_sets_its_field(monkeypatch):
    monkeypatch.setenv("STREAMO_KAFKA__PARTITIONS", "3")
    assert Settings.load().kafka.partitions == 3


def test_an_unknown_variable_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("STREAMO_KAFKA__PARTITION", "3")
    with pytest.raises(InvalidInput, match=r"STREAMO_KAFKA__PARTITION;.*STREAMO_KAFKA__PARTITIONS"):
        Settings.load()


def test_a_value_of_the_wrong_kind_names_its_variable(monkeypatch):
    monkeypatch.setenv("STREAMO_LLM__MAX_SESSIONS", "many")
    with pytest.raises(InvalidInput, match="STREAMO_LLM__MAX_SESSIONS"):
        Settings.load()


@pytest.mark.parametrize("value", ["/videos", "", "3", '"/videos"', '["/videos"'])
def test_a_list_that_is_none_names_its_variable_and_shows_one(monkeypatch, value):
    monkeypatch.setenv("STREAMO_INGEST__FILE_ROOTS", value)
    with pytest.raises(InvalidInput, match=r'STREAMO_INGEST__FILE_ROOTS: .*JSON list.*\["/videos"\]'):
        Settings.load()


def test_the_environment_gives_another_process_the_same_settings(monkeypatch):
    changed = Settings.model_validate(
        {
            "kafka": {"partitions": 4, "prefix": "test-"},
            "ingest": {"file_roots": ["/videos", '/a"b\\c'], "pixel_format": "jpeg"},
            "model": {"path": '/models/ä"b\\c"'},
            "llm": {"max_lag_s": 2.5},
        }
    )
    variables = changed.environment()
    assert set(variables) == {
        "STREAMO_KAFKA__PARTITIONS",
        "STREAMO_KAFKA__PREFIX",
        "STREAMO_INGEST__FILE_ROOTS",
        "STREAMO_INGEST__PIXEL_FORMAT",
        "STREAMO_MODEL__PATH",
        "STREAMO_LLM__MAX_LAG_S",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Settings.load() == changed


def test_a_relative_model_is_from_where_the_command_is_given(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STREAMO_MODEL__PATH", "models/cameras")
    settings = Settings.load()
    assert settings.model.path == tmp_path / "models" / "cameras"
    assert settings.environment()["STREAMO_MODEL__PATH"] == str(settings.model.path)


def test_every_variable_is_one_section_and_one_field():
    assert all(name.count("__") == 1 and name.startswith(PREFIX) for name in Settings.variables())
    assert len(Settings.variables()) == len(set(Settings.variables()))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://h/0?password=canary", "url holds a '\\?': .* write it to a file, and set password_path"),
        ("redis://h/0#canary", "url holds a '#'"),
        ("redis://u:ca?nary@h", "url holds a '\\?'"),
        ("127.0.0.1:6379", "url must be redis://HOST:PORT/DATABASE"),
        ("localhost:6379", "url must be redis://HOST:PORT/DATABASE"),
        ("http://canary", "url must be redis://HOST:PORT/DATABASE"),
        ("redis:///0", "url must be redis://HOST:PORT/DATABASE"),
        ("redis://h:canary/0", "url must be redis://HOST:PORT/DATABASE"),
        ("redis://u:canary/x@h", "url must be redis://HOST:PORT/DATABASE"),
        ("redis://h/canary", "url must be redis://HOST:PORT/DATABASE"),
        ("redis://[canary", "url must be redis://HOST:PORT/DATABASE"),
        ("redis://u:canary\u2100@h", "url must be redis://HOST:PORT/DATABASE"),
    ],
)
def test_a_url_of_redis_that_is_none_is_refused_and_not_quoted(monkeypatch, url, told):
    monkeypatch.setenv("STREAMO_REDIS__URL", url)
    with pytest.raises(InvalidInput, match=f"STREAMO_REDIS__URL: {told}") as refused:
        Settings.load()
    assert "canary" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "url", ["redis://h", "redis://h/", "redis://h:6379/3", "rediss://user@h:6379", "redis://[::1]:6379/0"]
)
def test_a_url_of_redis_is_taken_as_it_is(monkeypatch, url):
    monkeypatch.setenv("STREAMO_REDIS__URL", url)
    assert Settings.load().redis.url == url


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("MIN_FPS", "5", r"min_fps \(5\) is more than max_fps \(2\): lower the one"),
        ("BACKOFF_MIN_S", "45", r"backoff_min_s \(45\) is more than backoff_max_s \(30\): lower the one"),
    ],
)
def test_a_least_above_the_most_is_refused_before_the_first_stream(monkeypatch, name, value, told):
    monkeypatch.setenv(f"STREAMO_INGEST__{name}", value)
    with pytest.raises(InvalidInput, match=f"STREAMO_INGEST: {told}"):
        Settings.load()


SASL = {
    "STREAMO_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
    "STREAMO_KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
    "STREAMO_KAFKA__USERNAME": "streamo",
    "STREAMO_KAFKA__PASSWORD_PATH": "/secrets/password",
}


def without(name):
    return {key: value for key, value in SASL.items() if key != f"STREAMO_KAFKA__{name}"}


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"STREAMO_KAFKA__TLS_CERT_PATH": "a"}, "KAFKA: tls_cert_path is set without tls_key_path: set both"),
        ({"STREAMO_REDIS__TLS_KEY_PATH": "a"}, "REDIS: tls_key_path is set without tls_cert_path: set both"),
        ({"STREAMO_GATEWAY__TLS_KEY_PATH": "a"}, "GATEWAY: tls_key_path is set without tls_cert_path"),
        ({"STREAMO_GATEWAY__TLS_CLIENT_CA_PATH": "a"}, "GATEWAY: tls_client_ca_path is set without tls_cert"),
        ({"STREAMO_CLIENT__TLS_CERT_PATH": "a", "STREAMO_CLIENT__TLS_KEY_PATH": "b"}, "without tls_ca_path"),
        (
            {"STREAMO_KAFKA__TLS_CA_PATH": "a"},
            "KAFKA: tls_ca_path is set, but security_protocol is PLAINTEXT",
        ),
        (without("SECURITY_PROTOCOL"), "KAFKA: sasl_mechanism is set, but security_protocol is PLAINTEXT"),
        ({**SASL, "STREAMO_KAFKA__SECURITY_PROTOCOL": "SSL"}, "security_protocol is SSL: set it to SASL_SSL"),
        (without("SASL_MECHANISM"), "password_path: set sasl_mechanism"),
        (without("USERNAME"), "password_path: set username"),
        (without("PASSWORD_PATH"), "password_path: set password_path"),
        ({"STREAMO_KAFKA__SECURITY_PROTOCOL": "SASL_PLAINTEXT"}, "KAFKA__SECURITY_PROTOCOL: .*'SASL_SSL'"),
        (
            {"STREAMO_REDIS__PASSWORD_PATH": "a"},
            "REDIS: password_path is set, but url does not begin with rediss",
        ),
        (
            {"STREAMO_REDIS__TLS_CA_PATH": "a"},
            "REDIS: tls_ca_path is set, but url does not begin with rediss",
        ),
        (
            {"STREAMO_REDIS__URL": "rediss://u:canary@host"},
            "REDIS: url holds a password: .* set password_path",
        ),
    ],
)
def test_security_settings_that_do_not_go_together_are_refused(monkeypatch, variables, told):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=told) as refused:
        Settings.load()
    assert "canary" not in f"{refused.value} {refused.value.__cause__}"


def test_security_settings_that_go_together_are_taken_and_handed_on(monkeypatch):
    given = {
        **SASL,
        "STREAMO_KAFKA__TLS_CA_PATH": "/ca",
        "STREAMO_KAFKA__TLS_CERT_PATH": "/cert",
        "STREAMO_KAFKA__TLS_KEY_PATH": "/key",
        "STREAMO_REDIS__URL": "rediss://streamo@host:6379/0",
        "STREAMO_REDIS__PASSWORD_PATH": "/password",
        "STREAMO_GATEWAY__TLS_CERT_PATH": "/cert",
        "STREAMO_GATEWAY__TLS_KEY_PATH": "/key",
        "STREAMO_GATEWAY__TLS_CLIENT_CA_PATH": "/ca",
        "STREAMO_GATEWAY__HEALTH_PORT": "50052",
        "STREAMO_CLIENT__TLS_CA_PATH": "/ca",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Settings.load().environment() == given
