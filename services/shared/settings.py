"""The one typed tree of settings, read once at a process's start and passed on as an object.

Every value can be set by an environment variable: STREAMO_KAFKA__BOOTSTRAP_SERVERS sets `kafka.bootstrap_servers`.
A variable that starts with STREAMO_ and names no setting is refused, so that a typing mistake is told, not ignored.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.shared.errors import InvalidInput

PREFIX = "STREAMO_"
DELIMITER = "__"

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaSettings(Section):
    bootstrap_servers: str = "127.0.0.1:9092"
    # Put before every topic, group and transactional id, so that installations can share a cluster.
    prefix: str = ""
    # Of `frames`, `events` and `state`. Fixed once the topics exist.
    partitions: int = Field(default=8, ge=1, le=1000)
    replication_factor: int = Field(default=1, ge=1)
    # Longer than the longest window plus the longest outage to be survived.
    frames_retention_s: int = Field(default=6 * 3600, ge=60)
    events_retention_s: int = Field(default=7 * 24 * 3600, ge=60)


class RedisSettings(Section):
    url: str = "redis://127.0.0.1:6379/0"
    # A call that takes longer counts as failed; the checkpoint is only a cache.
    timeout_s: Positive = 0.5


class TelemetrySettings(Section):
    # OTLP/gRPC, for example http://127.0.0.1:4317. Empty: nothing is exported.
    otlp_endpoint: str = ""
    # Share of kept frames that are traced.
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    metric_period_s: Positive = 10.0
    # Streams that each LLM replica tells apart in its metrics, those in trouble first. 0: none.
    max_named_streams: int = Field(default=100, ge=0)


class ModelSettings(Section):
    # A directory of the standard format: config.json, model.safetensors, tokenizer.json, streamo.json ...
    # A relative one is from where the command is given: services may run elsewhere.
    path: Annotated[Path, AfterValidator(Path.absolute)] = (
        Path(__file__).parents[2] / "models" / "checkpoints" / "streamo-tiny"
    )
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: str = "cpu"
    num_threads: int = Field(default=1, ge=1)


class IngestSettings(Section):
    pixel_format: Literal["rgb24", "jpeg"] = "rgb24"
    min_fps: Positive = 1.0
    max_fps: Positive = 2.0
    open_timeout_s: Positive = 10.0
    # No decoded frame for this long: the source counts as stalled and is opened again.
    stall_timeout_s: Positive = 10.0
    backoff_min_s: Positive = 1.0
    backoff_max_s: Positive = 30.0
    # Wrong credentials, nothing there, no video: tried again this rarely.
    backoff_hopeless_s: Positive = 60.0
    max_streams: int = Field(default=64, ge=1)
    # Directories from which files may be read as streams; empty: any file.
    file_roots: tuple[Path, ...] = ()
    # A file that the worker touches in every round of its loop, for a supervisor to see that it runs. Empty: none.
    heartbeat_path: str = ""


class EncoderSettings(Section):
    num_replicas: int = Field(default=1, ge=1)
    max_batch_frames: int = Field(default=16, ge=1)
    batch_wait_ms: float = Field(default=5.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    # Until a frame's embedding is there, tries included. Then the replica exits and another takes over.
    timeout_s: Positive = 30.0


class LlmSettings(Section):
    num_replicas: int = Field(default=1, ge=1)
    num_gpus: float = Field(default=0.0, ge=0)
    max_sessions: int = Field(default=64, ge=1)
    # Token slots of the KV cache over all sessions: the hard budget.
    max_kv_tokens: int = Field(default=200_000, ge=1)
    max_batch_tokens: int = Field(default=4096, ge=1)
    # 0: the window the checkpoint was trained for.
    window_rounds: int = Field(default=0, ge=0)
    # Most tokens a session's window may hold, so that more sessions fit. 0: what its rounds can come to at most.
    max_window_tokens: int = Field(default=0, ge=0)
    # How the engine computes attention; "auto" tries what suits the device and takes what comes to the right result.
    attention: Literal["auto", "sdpa", "varlen", "paged"] = "auto"
    # From a live frame's capture: rounds are decided in the order in which this runs out.
    decision_target_ms: Positive = 300.0
    # A live stream further behind jumps to its newest frame.
    max_lag_s: Positive = 10.0
    source_lost_s: Positive = 30.0
    commit_period_s: Positive = 1.0
    # A commit that takes longer ends the process; another replica goes on from the last one.
    commit_timeout_s: Positive = 10.0
    # Frames of one stream held in memory; the pictures of those behind them are read again when their turn comes.
    max_pending_frames: int = Field(default=16, ge=1)
    session_timeout_s: Positive = 10.0
    max_poll_interval_s: Positive = 60.0


class GatewaySettings(Section):
    host: str = "127.0.0.1"
    port: Port = 50051
    bookmark_period_s: Positive = 5.0
    max_subscribers: int = Field(default=1000, ge=1)
    # Messages waiting for one subscriber before the gateway stops reading Kafka for it.
    max_queued_messages: int = Field(default=256, ge=1)
    # A subscriber that takes nothing for this long is told so and cut off, with a token to go on.
    slow_subscriber_s: Positive = 60.0
    # Until a write has been read back.
    write_timeout_s: Positive = 10.0


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        extra="forbid",
        frozen=True,
        nested_model_default_partial_update=True,
    )

    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    model: ModelSettings = ModelSettings()
    ingest: IngestSettings = IngestSettings()
    encoder: EncoderSettings = EncoderSettings()
    llm: LlmSettings = LlmSettings()
    gateway: GatewaySettings = GatewaySettings()

    @classmethod
    def load(cls) -> "Settings":
        """Reads the environment. Raises InvalidInput naming the variable and what is wrong with it."""
        unknown = sorted(set(_settings_in(os.environ)) - set(cls.variables()))
        if unknown:
            raise InvalidInput(
                f"unknown setting {unknown[0]}; the settings are: {', '.join(cls.variables())}"
            )
        try:
            return cls()
        except ValidationError as error:
            first = error.errors()[0]
            name = PREFIX + DELIMITER.join(str(part) for part in first["loc"]).upper()
            raise InvalidInput(f"setting {name}: {first['msg']}") from error

    @classmethod
    def variables(cls) -> list[str]:
        """The names of all environment variables that set something."""
        names = []
        for section, field in cls.model_fields.items():
            section_class = field.annotation
            assert isinstance(section_class, type) and issubclass(section_class, Section)
            names += [f"{PREFIX}{section}{DELIMITER}{name}".upper() for name in section_class.model_fields]
        return sorted(names)

    def environment(self) -> dict[str, str]:
        """The variables that give these settings to another process, those that differ from the defaults only."""
        variables = {}
        for section in type(self).model_fields:
            value, default = getattr(self, section), type(self).model_fields[section].default
            for name in type(value).model_fields:
                if getattr(value, name) != getattr(default, name):
                    dumped = value.model_dump_json(include={name})
                    text = dumped.split(":", 1)[1][:-1]
                    variables[f"{PREFIX}{section}{DELIMITER}{name}".upper()] = text.strip('"')
        return variables


def _settings_in(environment: Mapping[str, str]) -> list[str]:
    return [name for name in environment if name.startswith(PREFIX)]
