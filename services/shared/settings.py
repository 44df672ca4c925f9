"""The one typed tree of settings, read once at a process's start and passed on as an object.

Every value can be set by an environment variable: STREAMO_KAFKA__BOOTSTRAP_SERVERS sets `kafka.bootstrap_servers`.
A variable that starts with STREAMO_ and names no setting is refused, so that a typing mistake is told, not ignored.
No setting holds a secret: a password is in a file, and its setting says which.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.shared.errors import InvalidInput

PREFIX = "STREAMO_"
DELIMITER = "__"

Port = Annotated[int, Field(ge=0, le=65535)]
Positive = Annotated[float, Field(gt=0)]


def _json_list(value: object) -> object:
    """What an environment variable says; a list as it is."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
        if not isinstance(value, list):
            raise ValueError('must be a JSON list, for example ["/videos"]')
    return value


Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_json_list)]


class Section(BaseModel):
    # A refused value is not quoted: it may be a secret in the wrong place.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TlsSection(Section):
    """Who we are, for the other side of a TLS connection. Files are PEM; `services.shared.tls` reads them."""

    # Both or neither; the key is not encrypted.
    tls_cert_path: str = ""
    tls_key_path: str = ""

    @model_validator(mode="after")
    def _certificate_has_its_key(self) -> Self:
        given, missing = "tls_cert_path", "tls_key_path"
        if self.tls_key_path:
            given, missing = missing, given
        if bool(self.tls_cert_path) != bool(self.tls_key_path):
            raise ValueError(f"{given} is set without {missing}: set both or neither")
        return self


class TlsClientSection(TlsSection):
    """A client of a server that speaks TLS; it shows its certificate where the server asks for one."""

    # Whom to believe. Empty: the authorities that the machine trusts.
    tls_ca_path: str = ""

    def tls_files(self) -> list[str]:
        """The fields that name a file."""
        return [name for name in ("tls_ca_path", "tls_cert_path", "tls_key_path") if getattr(self, name)]


class KafkaSettings(TlsClientSection):
    bootstrap_servers: str = "127.0.0.1:9092"
    # SASL goes over TLS alone: one of the mechanisms sends the password itself.
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["", "SCRAM-SHA-512", "PLAIN"] = ""
    username: str = ""
    # A file that holds nothing but the password.
    password_path: str = ""
    # Put before every topic, group and transactional id, so that installations can share a cluster.
    prefix: str = ""
    # Of `frames`, `events` and `state`. Fixed once the topics exist.
    partitions: int = Field(default=8, ge=1, le=1000)
    replication_factor: int = Field(default=1, ge=1)
    # Longer than the longest window plus the longest outage to be survived.
    frames_retention_s: int = Field(default=6 * 3600, ge=60)
    events_retention_s: int = Field(default=7 * 24 * 3600, ge=60)

    @model_validator(mode="after")
    def _protocol_and_credentials_agree(self) -> Self:
        sasl = ("sasl_mechanism", "username", "password_path")
        given = [name for name in sasl if getattr(self, name) != ""]
        if self.security_protocol == "SASL_SSL" and len(given) < len(sasl):
            missing = next(name for name in sasl if name not in given)
            raise ValueError(f"security_protocol SASL_SSL needs {', '.join(sasl)}: set {missing}")
        if self.security_protocol != "SASL_SSL" and given:
            raise ValueError(
                f"{given[0]} is set, but security_protocol is {self.security_protocol}: set it to SASL_SSL"
            )
        if self.security_protocol == "PLAINTEXT" and self.tls_files():
            raise ValueError(
                f"{self.tls_files()[0]} is set, but security_protocol is PLAINTEXT: set it to SSL or SASL_SSL"
            )
        return self


def _redis_url(url: str) -> str:
    for mark in "?#":
        if mark in url:
            raise ValueError(
                f"url holds a '{mark}': leave out all from there; if that is a password, write it to a file, and set "
                "password_path to that"
            )
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("redis", "rediss") and parts.hostname and parts.port != 0
    except ValueError:  # not passed on: it quotes what may be part of a password
        is_one = False
    if not is_one or not re.fullmatch("/?|/[0-9]+", parts.path):
        raise ValueError(
            "url must be redis://HOST:PORT/DATABASE, or rediss:// for TLS; for example redis://redis:6379/0"
        )
    return url


class RedisSettings(TlsClientSection):
    # rediss:// is TLS. An ACL user stands before the host, as in rediss://streamo@redis:6379/0; without: `default`.
    url: Annotated[str, AfterValidator(_redis_url)] = "redis://127.0.0.1:6379/0"
    # A file that holds nothing but the password.
    password_path: str = ""
    # A call that takes longer counts as failed; the checkpoint is only a cache.
    timeout_s: Positive = 0.5

    @model_validator(mode="after")
    def _secrets_go_over_tls(self) -> Self:
        url = urlsplit(self.url)
        if url.password is not None:
            raise ValueError("url holds a password: write it to a file, and set password_path to that")
        given = [*self.tls_files(), *(["password_path"] if self.password_path else [])]
        if url.scheme != "rediss" and given:
            raise ValueError(f"{given[0]} is set, but url does not begin with rediss://: TLS takes that")
        return self


class TelemetrySettings(TlsClientSection):
    # OTLP/gRPC, for example http://127.0.0.1:4317; https:// is TLS. Empty: nothing is exported.
    otlp_endpoint: str = ""
    # Share of kept frames that are traced.
    trace_ratio: float = Field(default=1.0, ge=0, le=1)
    metric_period_s: Positive = 10.0
    # Streams that each LLM replica tells apart in its metrics, those in trouble first. 0: none.
    max_named_streams: int = Field(default=100, ge=0)

    @model_validator(mode="after")
    def _certificates_go_over_tls(self) -> Self:
        if self.tls_files() and not self.otlp_endpoint.startswith("https://"):
            raise ValueError(
                f"{self.tls_files()[0]} is set, but otlp_endpoint does not begin with https://: TLS takes that"
            )
        return self


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
    file_roots: Paths = ()
    # A file that the worker touches in every round of its loop, for a supervisor to see that it runs. Empty: none.
    heartbeat_path: str = ""

    @model_validator(mode="after")
    def _has_ranges(self) -> Self:
        for least, most in (("min_fps", "max_fps"), ("backoff_min_s", "backoff_max_s")):
            at_least, at_most = getattr(self, least), getattr(self, most)
            if at_least > at_most:
                raise ValueError(
                    f"{least} ({at_least:g}) is more than {most} ({at_most:g}): lower the one, or raise the other"
                )
        return self


class Replicas(Section):
    # Equal: so many, always. Else the deployment is scaled by its load.
    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _has_a_range(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(
                f"min_replicas ({self.min_replicas}) is more than max_replicas ({self.max_replicas}): raise the latter"
            )
        return self


class EncoderSettings(Replicas):
    # 0: no bound. Serve takes 100 at most.
    max_replicas_per_node: int = Field(default=0, ge=0, le=100)
    max_batch_frames: int = Field(default=16, ge=1)
    batch_wait_ms: float = Field(default=5.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    # Until a frame's embedding is there, tries included. Then the replica exits and another takes over.
    timeout_s: Positive = 30.0


class LlmSettings(Replicas):
    # Beyond any of these, on average, a replica is added: sessions over those that there is room for, the share of
    # time spent in engine steps, and the age of the oldest frame to be decided of a replica as busy as that.
    target_occupancy: float = Field(default=0.8, gt=0, le=1)
    target_utilisation: float = Field(default=0.6, gt=0, le=1)
    target_lag_s: Positive = 2.0
    # For so long the load has to ask for it before a replica is added, or taken away.
    upscale_delay_s: float = Field(default=30.0, ge=0)
    downscale_delay_s: float = Field(default=600.0, ge=0)
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


class GatewaySettings(TlsSection):
    """With a certificate the gateway speaks TLS and nothing else."""

    host: str = "127.0.0.1"
    port: Port = 50051
    # Clients must show a certificate by one of these authorities. Empty: anybody may connect.
    tls_client_ca_path: str = ""
    # Answers health checks and nothing else, without TLS, for probes that speak none. 0: there is no such port.
    health_port: Port = 0
    bookmark_period_s: Positive = 5.0
    max_subscribers: int = Field(default=1000, ge=1)
    # Messages waiting for one subscriber before the gateway stops reading Kafka for it.
    max_queued_messages: int = Field(default=256, ge=1)
    # A subscriber that takes nothing for this long is told so and cut off, with a token to go on.
    slow_subscriber_s: Positive = 60.0
    # Until a write has been read back.
    write_timeout_s: Positive = 10.0

    @model_validator(mode="after")
    def _clients_are_asked_over_tls(self) -> Self:
        if self.tls_client_ca_path and not self.tls_cert_path:
            raise ValueError(
                "tls_client_ca_path is set without tls_cert_path: clients show certificates over TLS alone; "
                "set tls_cert_path and tls_key_path"
            )
        return self


class ClientSettings(TlsClientSection):
    """How `streamo` speaks to a gateway: over TLS where `tls_ca_path` is set."""

    @model_validator(mode="after")
    def _certificate_goes_over_tls(self) -> Self:
        if self.tls_cert_path and not self.tls_ca_path:
            raise ValueError("tls_cert_path is set without tls_ca_path: TLS is spoken where that is set")
        return self


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter=DELIMITER,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
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
    client: ClientSettings = ClientSettings()

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
            raise InvalidInput(f"setting {name}: {first['msg'].removeprefix('Value error, ')}") from error

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
                    dumped = value.model_dump(mode="json", include={name})[name]
                    # A text is given as it is, all else as JSON.
                    text = dumped if isinstance(dumped, str) else json.dumps(dumped)
                    variables[f"{PREFIX}{section}{DELIMITER}{name}".upper()] = text
        return variables


def _settings_in(environment: Mapping[str, str]) -> list[str]:
    return [name for name in environment if name.startswith(PREFIX)]
