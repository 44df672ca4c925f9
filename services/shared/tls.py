"""Certificates, keys and passwords in files: read, and refused by the name of the setting that says where they are."""

import ssl
from pathlib import Path

import grpc
from pydantic import SecretStr

from services.shared.errors import InvalidInput
from services.shared.settings import TlsClientSection


def read_file(path: str, setting: str) -> bytes:
    """Raises InvalidInput for a file that cannot be read, or is empty."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{setting}: {path} cannot be read ({error.strerror}): name a file that this process may read"
        ) from error
    if not content.strip():
        raise InvalidInput(f"{setting}: {path} is empty")
    return content


def read_secret(path: str, setting: str) -> SecretStr:
    """The file's text without the end of its last line. Raises InvalidInput."""
    try:
        return SecretStr(read_file(path, setting).decode().rstrip("\r\n"))
    except UnicodeDecodeError:
        raise InvalidInput(f"{setting}: {path} is not UTF-8 text") from None


def client_context(settings: TlsClientSection, section: str) -> ssl.SSLContext:
    """For a client that checks whom it speaks to, name included. Raises InvalidInput naming `section`.FIELD."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.tls_ca_path:
        load_authorities(context, settings.tls_ca_path, f"{section}.tls_ca_path")
    else:
        context.load_default_certs()
    if settings.tls_cert_path:
        load_certificate(context, settings.tls_cert_path, settings.tls_key_path, section)
    return context


def channel_credentials(settings: TlsClientSection, section: str) -> grpc.ChannelCredentials:
    """The same for a client over gRPC. Raises InvalidInput naming `section`.FIELD."""
    client_context(settings, section)  # gRPC would not say which file is wrong

    def content(path: str, field: str) -> bytes | None:
        return read_file(path, f"{section}.{field}") if path else None

    return grpc.ssl_channel_credentials(
        root_certificates=content(settings.tls_ca_path, "tls_ca_path"),
        private_key=content(settings.tls_key_path, "tls_key_path"),
        certificate_chain=content(settings.tls_cert_path, "tls_cert_path"),
    )


def load_authorities(context: ssl.SSLContext, path: str, setting: str) -> None:
    """Raises InvalidInput."""
    read_file(path, setting)
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise InvalidInput(f"{setting}: {path} holds no certificate in PEM") from error


def load_certificate(context: ssl.SSLContext, cert_path: str, key_path: str, section: str) -> None:
    """Raises InvalidInput, also where key and certificate are no pair."""
    read_file(cert_path, f"{section}.tls_cert_path")
    read_file(key_path, f"{section}.tls_key_path")
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(cert_path, key_path, password="")
    except ssl.SSLError as error:
        raise InvalidInput(
            f"{section}.tls_cert_path, {section}.tls_key_path: {cert_path} and {key_path} are no certificate and "
            "its key: both in PEM, the key without a passphrase"
        ) from error
