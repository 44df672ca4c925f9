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


def test_the_environment_gives_another_process_the_same_settings(monkeypatch):
    changed = Settings.model_validate(
        {
            "kafka": {"partitions": 4, "prefix": "test-"},
            "ingest": {"file_roots": ["/videos", "/more"], "pixel_format": "jpeg"},
            "model": {"path": "/models/a"},
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
