"""Resume tokens: where a subscriber goes on. Opaque to clients, good at any gateway of the same installation.

    version (1 byte) | checksum (8) | body
    body = cluster id | topic | filter hash (8) | count | (partition, next offset) * count [| loss]

Numbers are varints, strings carry their length before them. The checksum finds damage; it is no signature, and
a token gives no rights.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b

from services.gateway.event_filter import HASH_BYTES, Filter
from services.shared.errors import InvalidInput, TokenForeign

VERSION = 1
MAX_TOKEN_BYTES = 64 * 1024

_CHECKSUM_BYTES = 8
_BROKEN = (
    "resume token is broken: pass on the bytes of an answer unchanged, or subscribe from `earliest` or `now`"
)


@dataclass(frozen=True)
class ResumeToken:
    cluster_id: str
    topic: str
    filter_hash: bytes
    # Partition of `events` -> offset of the next record to read.
    positions: Mapping[int, int]
    # What was found lost right before `positions`, where it is still to be told.
    loss: str = ""

    def encode(self) -> bytes:
        body = bytearray()
        for name in (self.cluster_id, self.topic):
            body += _text(name)
        body += self.filter_hash + _varint(len(self.positions))
        for partition in sorted(self.positions):
            body += _varint(partition) + _varint(self.positions[partition])
        if self.loss:
            body += _text(self.loss)
        return bytes([VERSION]) + _checksum(body) + bytes(body)

    @classmethod
    def decode(cls, token: bytes) -> "ResumeToken":
        """Raises InvalidInput for anything that `encode` did not make."""
        if not 1 + _CHECKSUM_BYTES < len(token) <= MAX_TOKEN_BYTES:
            raise InvalidInput(_BROKEN)
        if token[0] != VERSION:
            raise InvalidInput(
                f"resume token has version {token[0]}, this gateway reads version {VERSION}: "
                "subscribe from `earliest` or `now`"
            )
        body = token[1 + _CHECKSUM_BYTES :]
        if token[1 : 1 + _CHECKSUM_BYTES] != _checksum(body):
            raise InvalidInput(_BROKEN)
        reader = _Reader(body)
        cluster_id, topic = reader.text(), reader.text()
        filter_hash = reader.take(HASH_BYTES)
        positions = {reader.varint(): reader.varint() for _ in range(reader.varint())}
        loss = "" if reader.at_end else reader.text()
        if not reader.at_end:
            raise InvalidInput(_BROKEN)
        return cls(cluster_id, topic, filter_hash, positions, loss)


@dataclass(frozen=True)
class TokenIssuer:
    """Makes and opens the tokens of one installation: one cluster, one topic, one partition count."""

    cluster_id: str
    topic: str
    num_partitions: int

    def issue(self, wanted: Filter, positions: Mapping[int, int], loss: str = "") -> bytes:
        return ResumeToken(self.cluster_id, self.topic, wanted.hash, positions, loss).encode()

    def open(self, token: bytes, wanted: Filter) -> ResumeToken:
        """Raises InvalidInput for a broken token, TokenForeign for one of another installation or filter."""
        decoded = ResumeToken.decode(token)
        if (decoded.cluster_id, decoded.topic) != (self.cluster_id, self.topic):
            raise TokenForeign(
                f"resume token is of cluster {decoded.cluster_id}, topic {decoded.topic}; this gateway serves "
                f"cluster {self.cluster_id}, topic {self.topic}: its offsets mean nothing here"
            )
        if decoded.filter_hash != wanted.hash:
            raise TokenForeign(
                "resume token was made for another filter: repeat the filter it was made for, "
                "or subscribe from `earliest` or `now`"
            )
        if sorted(decoded.positions) != wanted.partitions(self.num_partitions):
            raise TokenForeign(
                "resume token was made for another number of partitions than the "
                f"{self.num_partitions} of this gateway"
            )
        return decoded


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at == len(self._data)

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise InvalidInput(_BROKEN)
        self._at += size
        return self._data[self._at - size : self._at]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    def text(self) -> str:
        try:
            return self.take(self.varint()).decode()
        except UnicodeDecodeError as error:
            raise InvalidInput(_BROKEN) from error


def _text(value: str) -> bytes:
    raw = value.encode()
    return _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _checksum(body: bytes | bytearray) -> bytes:
    return blake2b(body, digest_size=_CHECKSUM_BYTES, person=b"streamo-token").digest()
