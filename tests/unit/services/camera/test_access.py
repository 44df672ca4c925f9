import base64
import hashlib

import pytest

from services.camera.access import Access

PASSWORD = "p:w"


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def digest(username: str, password: str, nonce: str = "n0", method: str = "DESCRIBE") -> str:
    uri = "rtsp://cam/gate"
    response = md5(f"{md5(f'{username}:streamo:{password}')}:{nonce}:{md5(f'{method}:{uri}')}")
    return (
        f'Digest username="{username}", realm="streamo", nonce="{nonce}", uri="{uri}", response="{response}"'
    )


def basic(username: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


DIGEST = Access("me", PASSWORD, "n0", "digest")
BASIC = Access("me", PASSWORD, "n0", "basic")


def test_the_right_credentials_are_let_in():
    assert DIGEST.allows("DESCRIBE", digest("me", PASSWORD))
    assert BASIC.allows("DESCRIBE", basic("me", PASSWORD))


@pytest.mark.parametrize(
    "given",
    [
        "",
        "Digest",
        digest("me", "other"),
        digest("you", PASSWORD),
        digest("me", PASSWORD, nonce="old"),
        digest("me", PASSWORD, method="PLAY"),
        basic("me", PASSWORD),
    ],
)
def test_digest_lets_nothing_else_in(given: str):
    assert not DIGEST.allows("DESCRIBE", given)


@pytest.mark.parametrize(
    "given", ["", "Basic", "Basic !!!", basic("me", "p"), basic("you", PASSWORD), digest("me", PASSWORD)]
)
def test_basic_lets_nothing_else_in(given: str):
    assert not BASIC.allows("DESCRIBE", given)
