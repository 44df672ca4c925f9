"""Tokens come back as they went out, and nothing else passes for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.event_filter import Filter
from services.gateway.resume_token import VERSION, ResumeToken, TokenIssuer
from services.shared.errors import InvalidInput, ServiceError, TokenForeign

POSITIONS = st.dictionaries(st.integers(0, 999), st.integers(0, 2**63 - 1), max_size=40)
TOKENS = st.builds(
    ResumeToken,
    cluster_id=st.text(max_size=40),
    topic=st.text(max_size=200),
    filter_hash=st.binary(min_size=8, max_size=8),
    positions=POSITIONS,
    loss=st.text(max_size=200),
)
ISSUER = TokenIssuer("cluster-a", "events", 4)


@given(TOKENS)
def test_a_token_comes_back_whole(token: ResumeToken) -> None:
    assert ResumeToken.decode(token.encode()) == token


@given(TOKENS, st.data())
def test_a_changed_byte_is_noticed(token: ResumeToken, data: st.DataObject) -> None:
    raw = bytearray(token.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(InvalidInput):
        ResumeToken.decode(bytes(raw))


@given(TOKENS, st.data())
def test_a_token_cut_short_or_made_longer_is_noticed(token: ResumeToken, data: st.DataObject) -> None:
    raw = token.encode()
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    longer = raw + data.draw(st.binary(min_size=1, max_size=20))
    for damaged in (cut, longer):
        with pytest.raises(InvalidInput):
            ResumeToken.decode(damaged)


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused_as_a_users_mistake(raw: bytes) -> None:
    with pytest.raises(InvalidInput):
        ResumeToken.decode(raw)


def test_another_version_is_named() -> None:
    raw = bytearray(ISSUER.issue(Filter(), {0: 1, 1: 2, 2: 3, 3: 4}))
    raw[0] = VERSION + 1
    with pytest.raises(InvalidInput, match="version 2"):
        ResumeToken.decode(bytes(raw))


def test_the_issuer_opens_its_own_tokens() -> None:
    positions = {0: 1, 1: 0, 2: 7, 3: 2**40}
    assert ISSUER.open(ISSUER.issue(Filter(), positions), Filter()).positions == positions
    assert ISSUER.open(ISSUER.issue(Filter(), positions, "seq 2"), Filter()).loss == "seq 2"


@pytest.mark.parametrize(
    ("other", "wanted", "text"),
    [
        (TokenIssuer("cluster-b", "events", 4), Filter(), "cluster cluster-b"),
        (TokenIssuer("cluster-a", "x-events", 4), Filter(), "topic x-events"),
        (ISSUER, Filter(watch_ids=frozenset({"gate"})), "another filter"),
        (TokenIssuer("cluster-a", "events", 5), Filter(), "number of partitions"),
    ],
)
def test_a_token_of_elsewhere_is_foreign(other: TokenIssuer, wanted: Filter, text: str) -> None:
    token = other.issue(wanted, dict.fromkeys(range(other.num_partitions), 3))
    with pytest.raises(TokenForeign, match=text) as raised:
        ISSUER.open(token, Filter())
    assert isinstance(raised.value, ServiceError)
    assert raised.value.status == "FAILED_PRECONDITION"
