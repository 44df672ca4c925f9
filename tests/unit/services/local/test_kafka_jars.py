import hashlib
import shutil
from pathlib import Path

import pytest

from services.local import kafka_jars
from services.local.kafka_jars import KafkaJars
from services.shared.errors import Unavailable

CONTENT = b"not really a jar"


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock of one jar, and a Maven repository that is empty."""
    lock = tmp_path / "jars.lock"
    lock.write_text(f"org.example.deep:thing:1.2 {len(CONTENT)} {hashlib.sha256(CONTENT).hexdigest()}\n")
    monkeypatch.setattr(kafka_jars, "LOCK", lock)
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    return lock


def put(repository: Path, content: bytes) -> None:
    path = repository / "org/example/deep/thing/1.2/thing-1.2.jar"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


def test_a_jar_in_the_users_maven_repository_is_taken_from_there(lock: Path, tmp_path: Path) -> None:
    put(tmp_path / "m2", CONTENT)
    jars = KafkaJars(tmp_path / "cache")
    assert [jar.artifact for jar in jars.missing()] == ["thing"]
    with pytest.raises(Unavailable, match="fetch them first"):
        jars.classpath()
    told: list[tuple[int, int]] = []
    jars.fetch(lambda done, total: told.append((done, total)))
    assert told == [(len(CONTENT), len(CONTENT))]
    assert jars.missing() == []
    assert Path(jars.classpath()).read_bytes() == CONTENT


def test_a_download_of_other_content_never_enters_the_cache(
    lock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = CONTENT[:-1] + b"!"
    put(tmp_path / "m2", other)  # not what is pinned: passed over
    monkeypatch.setattr(
        kafka_jars, "_download", lambda jar, repository: (repository / jar.path).write_bytes(other)
    )
    jars = KafkaJars(tmp_path / "cache")
    with pytest.raises(Unavailable, match="checksum differs"):
        jars.fetch()
    assert len(jars.missing()) == 1
    assert not list((tmp_path / "cache").glob("partial-*"))


def test_a_jar_of_the_wrong_size_counts_as_missing_and_is_replaced(lock: Path, tmp_path: Path) -> None:
    put(tmp_path / "cache", CONTENT[:5])
    put(tmp_path / "m2", CONTENT)
    jars = KafkaJars(tmp_path / "cache")
    assert len(jars.missing()) == 1
    jars.fetch()
    shutil.rmtree(tmp_path / "m2")
    jars.fetch()  # nothing is missing: nothing is asked for
    assert jars.missing() == []


def test_the_committed_lock_is_of_one_kafka_version() -> None:
    jars = KafkaJars().jars
    endpoint_version = kafka_jars.ENDPOINT.rsplit(":", 1)[1]
    assert {jar.version for jar in jars if jar.group == "org.apache.kafka"} == {endpoint_version}
    assert len({(jar.group, jar.artifact) for jar in jars}) == len(jars)
