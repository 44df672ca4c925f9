"""Kafka's own jars, from Maven Central through jgo, each one pinned by version and checksum in kafka_jars.lock."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from services.shared.errors import Unavailable

LOCK = Path(__file__).with_name("kafka_jars.lock")
ENDPOINT = "org.apache.kafka:kafka_2.13:4.3.1"
# Binds Kafka's slf4j calls to the log4j it already brings; without it a broker that fails says nothing.
_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl"
_LOGGING_VERSION_OF = "org.apache.logging.log4j:log4j-core"

_ATTEMPTS = 3
_DOWNLOADS_AT_ONCE = 8

Progress = Callable[[int, int], None]  # bytes there, bytes in all


@dataclass(frozen=True)
class Jar:
    group: str
    artifact: str
    version: str
    size_bytes: int
    sha256: str

    @property
    def path(self) -> Path:
        """Where it lies in a repository of Maven's layout."""
        name = f"{self.artifact}-{self.version}.jar"
        return Path(*self.group.split("."), self.artifact, self.version, name)

    def is_at(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_size == self.size_bytes and _sha256(path) == self.sha256


class KafkaJars:
    """The jars of one Kafka version, kept in the user's cache and shared by every stack of this user."""

    def __init__(self, cache: Path | None = None) -> None:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self.cache = cache or Path(home) / "streamo" / "jars"
        self.jars = _read_lock()

    @property
    def total_bytes(self) -> int:
        return sum(jar.size_bytes for jar in self.jars)

    def missing(self) -> list[Jar]:
        """What is not in the cache yet. A jar enters the cache only once its checksum was right, so size is enough."""
        return [jar for jar in self.jars if not _has_size(self.cache / jar.path, jar.size_bytes)]

    def classpath(self) -> str:
        """Raises Unavailable where a jar is missing."""
        missing = self.missing()
        if missing:
            raise Unavailable(
                f"{len(missing)} of Kafka's {len(self.jars)} jars are not in {self.cache}; fetch them first"
            )
        return os.pathsep.join(str(self.cache / jar.path) for jar in self.jars)

    def fetch(self, on_progress: Progress | None = None) -> None:
        """Brings what is missing: from the user's Maven repository where it is there, else by download.

        Safe to run twice at once: a jar is moved into its place whole. Raises Unavailable where Maven Central
        cannot be reached or sends something else than what was pinned.
        """
        missing = self.missing()
        if not missing:
            return
        done_bytes = self.total_bytes - sum(jar.size_bytes for jar in missing)
        self.cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix="partial-", dir=self.cache))
        try:
            with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
                fetched = {pool.submit(self._fetch, jar, staging): jar for jar in missing}
                try:
                    for future in as_completed(fetched):
                        future.result()
                        done_bytes += fetched[future].size_bytes
                        if on_progress is not None:
                            on_progress(done_bytes, self.total_bytes)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _fetch(self, jar: Jar, staging: Path) -> None:
        target = self.cache / jar.path
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = staging / jar.path
        staged.parent.mkdir(parents=True, exist_ok=True)
        local = _maven_repository() / jar.path
        if jar.is_at(local):
            shutil.copyfile(local, staged)
        else:
            _download(jar, staging)
        if not jar.is_at(staged):
            raise Unavailable(f"{jar.path.name} is not what kafka_jars.lock pins: its checksum differs")
        os.replace(staged, target)


def _download(jar: Jar, repository: Path) -> None:
    import requests
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext

    # A mirror named in jgo's own configuration is asked too.
    remotes = {"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories}
    context = MavenContext(repo_cache=repository, local_repos=[], remote_repos=remotes, timeout=30)
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            artifact.resolve()
            return
        except (requests.RequestException, RuntimeError) as error:
            (repository / jar.path).unlink(missing_ok=True)
            if attempt == _ATTEMPTS:
                raise Unavailable(
                    f"Kafka's {jar.path.name} could not be fetched from Maven Central ({type(error).__name__}). "
                    "Connect to the internet once, or copy ~/.m2/repository from a machine that has it"
                ) from error


def relock() -> None:
    """Resolves ENDPOINT anew and writes kafka_jars.lock. Needs the internet."""
    import jgo

    artifacts = jgo.resolve(ENDPOINT)
    versions = {f"{artifact.groupId}:{artifact.artifactId}": artifact.version for artifact in artifacts}
    # Resolved apart: in one graph the parent of log4j would pull Kafka's own dependencies to other versions.
    logging = f"{_LOGGING}:{versions[_LOGGING_VERSION_OF]}"
    artifacts += [
        artifact
        for artifact in jgo.resolve(logging)
        if f"{artifact.groupId}:{artifact.artifactId}" == _LOGGING
    ]
    lines = []
    for artifact in artifacts:
        path = artifact.resolve()
        name = f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"
        lines.append(f"{name} {path.stat().st_size} {_sha256(path)}\n")
    LOCK.write_text("".join(sorted(lines)))


def _read_lock() -> list[Jar]:
    jars = []
    for line in LOCK.read_text().splitlines():
        name, size_bytes, sha256 = line.split()
        group, artifact, version = name.split(":")
        jars.append(Jar(group, artifact, version, int(size_bytes), sha256))
    return jars


def _maven_repository() -> Path:
    return Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")


def _has_size(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    relock()
