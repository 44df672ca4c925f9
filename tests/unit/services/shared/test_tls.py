"""Files of certificates and passwords: what is wrong with one is told with the name of its setting."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.authority import Authority, Certificate

from services.shared.errors import InvalidInput
from services.shared.kafka_connection import connection
from services.shared.settings import KafkaSettings, TlsClientSection
from services.shared.tls import client_context, read_secret


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"), "ours")


@pytest.fixture(scope="module")
def us(authority: Authority) -> Certificate:
    return authority.issue("us")


def kafka(authority: Authority, us: Certificate, tmp_path: Path, **values: str) -> KafkaSettings:
    password = tmp_path / "password"
    password.write_text("canary\n")
    return KafkaSettings.model_validate(
        {
            "security_protocol": "SASL_SSL",
            "sasl_mechanism": "PLAIN",
            "username": "streamo",
            "password_path": str(password),
            "tls_ca_path": authority.ca_path,
            "tls_cert_path": us.cert_path,
            "tls_key_path": us.key_path,
            **values,
        }
    )


def test_a_password_is_what_its_file_holds_without_the_last_line_s_end(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(" pass word \r\n")
    secret = read_secret(str(path), "kafka.password_path")
    assert secret.get_secret_value() == " pass word "
    assert "pass" not in f"{secret} {secret!r}"


def test_clients_of_kafka_get_a_context_that_checks_names_and_the_password(
    authority: Authority, us: Certificate, tmp_path: Path
) -> None:
    arguments = connection(kafka(authority, us, tmp_path))
    assert arguments["security_protocol"] == "SASL_SSL"
    assert arguments["sasl_plain_password"] == "canary"
    assert arguments["ssl_context"].check_hostname
    assert [one["subject"] for one in arguments["ssl_context"].get_ca_certs()] == [
        ((("commonName", "ours"),),)
    ]


@pytest.mark.parametrize("field", ["tls_ca_path", "tls_cert_path", "tls_key_path", "password_path"])
@pytest.mark.parametrize(("content", "told"), [(None, "cannot be read"), ("\n", "is empty")])
def test_a_missing_or_empty_file_is_told_with_its_setting(
    authority: Authority, us: Certificate, tmp_path: Path, field: str, content: str | None, told: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidInput, match=rf"kafka\.{field}: {path} {told}"):
        connection(kafka(authority, us, tmp_path, **{field: str(path)}))


def test_what_is_no_certificate_is_told(authority: Authority, us: Certificate, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no PEM")
    with pytest.raises(InvalidInput, match=r"redis\.tls_ca_path: .* holds no certificate"):
        client_context(TlsClientSection(tls_ca_path=str(text)), "redis")
    other = authority.issue("other")
    for cert_path, key_path in ((str(text), us.key_path), (us.cert_path, other.key_path)):
        with pytest.raises(InvalidInput, match=r"redis\.tls_cert_path, redis\.tls_key_path: .* and its key"):
            client_context(TlsClientSection(tls_cert_path=cert_path, tls_key_path=key_path), "redis")


def test_a_key_with_a_passphrase_is_refused_instead_of_asking_for_it(us: Certificate, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(Path(us.key_path).read_bytes(), None)
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(InvalidInput, match="without a passphrase"):
        client_context(TlsClientSection(tls_cert_path=us.cert_path, tls_key_path=str(encrypted)), "redis")


def test_the_topics_job_names_the_file_that_is_missing(
    authority: Authority, us: Certificate, tmp_path: Path
) -> None:
    from services.shared.settings import Settings

    settings = Settings(kafka=kafka(authority, us, tmp_path, password_path=str(tmp_path / "none")))
    done = subprocess.run(
        [sys.executable, "-m", "services.shared.topics"],
        env={"PATH": "", **settings.environment()},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("InvalidInput: kafka.password_path: ")
    assert done.stderr.count("\n") == 1
