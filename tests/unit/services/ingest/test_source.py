from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.source import Source, SourceKind, UnsupportedSource
from streamo.v1.stream_pb2 import Stream

CANARY = "canary-p@ss/w:rd%?#&=ü"


def source_of(source: str, username: str = "", password: str = "", roots: tuple[Path, ...] = ()) -> Source:
    return Source.of(Stream(stream_id="s", source=source, username=username, password=password), roots)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("rtsp://cam/1", SourceKind.RTSP),
        ("RTSPS://cam:322/1", SourceKind.RTSP),
        ("http://host/a.mp4", SourceKind.HTTP),
        ("https://host/live.m3u8", SourceKind.HTTP),
        ("file:///videos/a%20b.mp4", SourceKind.FILE),
        ("/videos/a.mp4", SourceKind.FILE),
        (" rtsp://cam/1 ", SourceKind.RTSP),
    ],
)
def test_known_sources_have_a_kind(text: str, kind: SourceKind):
    assert source_of(text).kind == kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "concat://a|b",
        "data://x",
        "udp://1.2.3.4:5",
        "subfile://x",
        "rtsp://",
        "rtsp://cam:notaport/",
        "http:///x",
    ],
)
def test_anything_else_is_unsupported(text: str):
    with pytest.raises(UnsupportedSource):
        source_of(text)


def test_a_path_cannot_name_one_of_ffmpegs_protocols():
    assert source_of("concat:/etc/passwd|/etc/group").address.startswith("file:/")
    assert source_of("concat:/etc/passwd|/etc/group").protocols == "file"


def test_network_sources_cannot_lead_to_files():
    for text in ("rtsp://cam/1", "rtsps://cam/1", "http://host/a.m3u8", "https://host/a.m3u8"):
        assert "file" not in source_of(text).protocols.split(",")


def test_files_are_read_under_the_roots_only(tmp_path: Path):
    roots = (tmp_path / "allowed",)
    (tmp_path / "allowed").mkdir()
    (tmp_path / "secret.mp4").touch()
    (tmp_path / "allowed" / "way-out.mp4").symlink_to(tmp_path / "secret.mp4")
    assert source_of(str(tmp_path / "allowed" / "a.mp4"), roots=roots).kind == SourceKind.FILE
    for outside in ("secret.mp4", "allowed/../secret.mp4", "allowed/way-out.mp4"):
        with pytest.raises(UnsupportedSource, match="file_roots"):
            source_of(str(tmp_path / outside), roots=roots)


def test_a_path_that_cannot_be_followed_is_unsupported(tmp_path: Path):
    (tmp_path / "there").symlink_to(tmp_path / "back")
    (tmp_path / "back").symlink_to(tmp_path / "there")
    for path in ("file:///a%00b", "/a\0b", str(tmp_path / "there"), "file://[/a"):
        with pytest.raises(UnsupportedSource, match="path"):
            source_of(path)


@given(st.text(min_size=1, max_size=20), st.text(max_size=30))
def test_credentials_survive_the_url_whatever_they_hold(username: str, password: str):
    try:
        source = source_of("rtsp://cam:554/path?a=b", username, password)
    except UnicodeEncodeError:
        return  # lone surrogates cannot be in a protobuf string
    url = urlsplit(source.address)
    assert (unquote(url.username or ""), unquote(url.password or "")) == (username, password)
    assert (url.hostname, url.port, url.path, url.query) == ("cam", 554, "/path", "a=b")


def test_credentials_of_the_stream_win_over_those_in_the_address():
    assert source_of("rtsp://old:older@cam/1", "new", "newer").address == "rtsp://new:newer@cam/1"


def test_credentials_in_the_address_are_used_where_the_stream_has_none():
    assert source_of("rtsp://us%40er:p%2Fw@cam/1").address == "rtsp://us%40er:p%2Fw@cam/1"


def test_an_ipv6_host_keeps_its_brackets():
    assert source_of("rtsp://[fe80::1]:554/1", "u", "p").address == "rtsp://u:p@[fe80::1]:554/1"


@pytest.mark.parametrize(
    ("source", "password"),
    [
        (source_of("rtsp://cam/1", "admin", CANARY), CANARY),
        (source_of("http://cam/video?user=admin&password=canary123"), "canary123"),
        (source_of("rtsp://admin:canary-in-address@cam/1"), "canary-in-address"),
        (
            source_of("rtsp://cam/user=admin_password=canary123_channel=1_stream=0.sdp?real_stream"),
            "canary123",
        ),
        (source_of("rtsp://cam/live/pwd=canary_123&x=2/main"), "canary_123"),
        (source_of("rtsp://cam/user%3Dadmin_password%3dcanary123_channel%3D1.sdp"), "canary123"),
    ],
)
def test_what_may_be_told_holds_no_credentials(source: Source, password: str):
    told = [
        source.label,
        repr(source),
        source.scrub(f"[Errno 111] Connection refused: '{source.address}'"),
        source.scrub(f"the URL {source.address.replace('cam', 'other')} was redirected"),
        source.scrub(f"password {password} was wrong"),
    ]
    assert not [text for text in told if "canary" in text]


def test_scrubbing_leaves_other_text_alone():
    source = source_of("rtsp://cam/1", "a", "b")
    assert source.scrub("connection refused by a camera") == "connection refused by a camera"
