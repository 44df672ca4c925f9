import pytest

from services.shared.source_address import public_address


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("rtsp://cam/h264", "rtsp://cam/h264"),
        ("rtsp://cam:554/a/b/", "rtsp://cam:554/a/b/"),
        ("rtsp://cam", "rtsp://cam"),
        ("HTTP://[fe80::1]:80/x.mjpg?user=a&pwd=b", "HTTP://[fe80::1]:80/x.mjpg"),
        ("http://cam?user=a", "http://cam"),
        ("http://cam/#a", "http://cam/"),
        ("rtsp://cam/user=admin_password=word_channel=1.sdp?x", "rtsp://cam/"),
        ("rtsp://cam/live/ch1;pwd=word/main", "rtsp://cam/live/"),
        ("rtsp://cam/user%3Dadmin_password%3Dword_channel%3D1.sdp", "rtsp://cam/"),
        ("rtsp://cam/live/pwd%3dword/main", "rtsp://cam/live/"),
        ("rtsp://cam/a%20b/%3", "rtsp://cam/a%20b/%3"),
        ("/videos/a=b?c#d.mp4", "/videos/a=b?c#d.mp4"),
        ("file:///videos/a=b.mp4", "file:///videos/a=b.mp4"),
        ("cameras/1.mp4", "cameras/1.mp4"),
    ],
)
def test_of_an_address_is_told_what_holds_no_credentials(source: str, told: str) -> None:
    assert public_address(source) == told
