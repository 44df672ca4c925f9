"""An RTSP 1.0 server for simulated cameras: RTP interleaved in the TCP connection, nothing else."""

import asyncio
import base64
import secrets
import struct
from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

from services.camera.access import Access
from services.camera.camera import AUDIO_HZ, Camera
from services.camera.fault import FaultKind
from services.camera.h264 import PAYLOAD_TYPE, RTP_CLOCK_HZ

_SERVER = "streamo-camera"
_METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER, SET_PARAMETER"
_MAX_REQUEST_BYTES = 16 * 1024
# A viewer that leaves more than this unread loses pictures until the next key frame.
_MAX_UNREAD_BYTES = 2 * 1024 * 1024
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    453: "Not Enough Bandwidth",
    454: "Session Not Found",
    455: "Method Not Valid In This State",
    461: "Unsupported Transport",
}


class RtspServer:
    """Serves cameras by name: rtsp://HOST:PORT/NAME. Lives in one event loop."""

    def __init__(
        self,
        cameras: Mapping[str, Camera],
        access: Access | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.cameras = cameras
        self.access = access
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return self._port

    def url(self, name: str) -> str:
        return f"rtsp://{self._host}:{self._port}/{name}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._accept, self._host, self._port, limit=_MAX_REQUEST_BYTES
        )
        self._port = self._server.sockets[0].getsockname()[1]
        for camera in self.cameras.values():
            camera.start(asyncio.get_running_loop())

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        for camera in self.cameras.values():
            await asyncio.to_thread(camera.stop)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await _Connection(self, reader, writer).serve()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the viewer has gone, or speaks something else
        except asyncio.CancelledError:
            pass  # `close` ends it; asyncio would report the cancelled task as an error
        finally:
            self._connections.discard(task)
            writer.close()


class _Request:
    def __init__(self, method: str, url: str, headers: dict[str, str]) -> None:
        self.method, self.url, self.headers = method, url, headers

    @property
    def camera_name(self) -> str:
        return unquote(urlsplit(self.url).path.strip("/").split("/")[0])


class _Connection:
    """One RTSP connection, and the viewer it becomes by SETUP and PLAY."""

    def __init__(
        self, server: RtspServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.num_frames = 0
        self._server = server
        self._reader = reader
        self._writer = writer
        self._session = secrets.token_hex(8)
        self._camera: Camera | None = None
        self._channels: tuple[int, int] | None = None
        self._waits_for_key = True

    async def serve(self) -> None:
        try:
            while (request := await self._read_request()) is not None:
                if not await self._answer(request):
                    return
        finally:
            if self._camera is not None:
                self._camera.leave(self)

    # The viewer's side

    def send(self, packets: list[bytes], is_key: bool) -> None:
        if self._writer.transport.get_write_buffer_size() > _MAX_UNREAD_BYTES:
            self._waits_for_key = True
        elif is_key:
            self._waits_for_key = False
        if not self._waits_for_key and self._channels is not None:
            self._writer.write(b"".join(_interleaved(self._channels[0], packet) for packet in packets))

    def report(self, packet: bytes) -> None:
        if self._channels is not None and not self._waits_for_key:
            self._writer.write(_interleaved(self._channels[1], packet))

    def close(self) -> None:
        self._writer.close()

    # Requests

    async def _read_request(self) -> _Request | None:
        """The next request; None at the end. What the viewer sends as RTCP is read and passed over."""
        while (first := await self._reader.read(1)) == b"$":
            header = await self._reader.readexactly(3)
            await self._reader.readexactly(struct.unpack("!BH", header)[1])
        if not first:
            return None
        head = (first + await self._reader.readuntil(b"\r\n\r\n")).decode("utf-8", "replace").lstrip()
        lines = head.split("\r\n")
        words = lines[0].split()
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > _MAX_REQUEST_BYTES:
            return None
        await self._reader.readexactly(int(length))
        if len(words) != 3:
            return _Request("", "", headers)
        return _Request(words[0].upper(), words[1], headers)

    async def _answer(self, request: _Request) -> bool:
        """False where the connection is over."""
        camera = self._server.cameras.get(request.camera_name)
        fault = camera.fault if camera is not None else None
        if fault is not None and fault.kind == FaultKind.REFUSE:
            return False
        if fault is not None and fault.kind == FaultKind.MUTE:
            await self._reader.read()  # until the viewer has had enough
            return False
        if request.method == "OPTIONS":
            return await self._reply(request, 200, {"Public": _METHODS})
        if camera is None or (fault is not None and fault.kind == FaultKind.NOT_FOUND):
            return await self._reply(request, 404)
        if not self._allowed(request, camera):
            challenge = self._server.access.challenge if self._server.access else 'Basic realm="streamo"'
            return await self._reply(request, 401, {"WWW-Authenticate": challenge})
        match request.method:
            case "DESCRIBE":
                headers = {"Content-Type": "application/sdp", "Content-Base": request.url.rstrip("/") + "/"}
                return await self._reply(request, 200, headers, _description(camera))
            case "SETUP":
                return await self._setup(request)
            case "PLAY":
                return await self._play(request, camera)
            case "TEARDOWN":
                await self._reply(request, 200)
                return False
            case "GET_PARAMETER" | "SET_PARAMETER":
                return await self._reply(request, 200)
            case "":
                return await self._reply(request, 400)
        return await self._reply(request, 405, {"Allow": _METHODS})

    def _allowed(self, request: _Request, camera: Camera) -> bool:
        if camera.fault.kind == FaultKind.UNAUTHORIZED:
            return False
        access = self._server.access
        return access is None or access.allows(request.method, request.headers.get("authorization", ""))

    async def _setup(self, request: _Request) -> bool:
        transport = next(
            (
                t
                for t in request.headers.get("transport", "").split(",")
                if t.strip().upper().startswith("RTP/AVP/TCP")
            ),
            None,
        )
        if transport is None:
            return await self._reply(request, 461)
        self._channels = _channels(transport)
        channels = "-".join(map(str, self._channels))
        return await self._reply(request, 200, {"Transport": f"RTP/AVP/TCP;unicast;interleaved={channels}"})

    async def _play(self, request: _Request, camera: Camera) -> bool:
        if self._channels is None:
            return await self._reply(request, 455)
        if request.headers.get("session", "").split(";")[0] != self._session:
            return await self._reply(request, 454)
        if camera.fault.kind == FaultKind.NO_PLAY:
            return await self._reply(request, 453)
        headers = {
            "Range": "npt=now-",
            "RTP-Info": f"url={request.url.rstrip('/')}/track0;seq={camera.next_sequence}",
        }
        going_on = await self._reply(request, 200, headers)
        self._camera = camera
        camera.join(self)
        return going_on

    async def _reply(
        self, request: _Request, status: int, headers: Mapping[str, str] | None = None, body: str = ""
    ) -> bool:
        sequence = request.headers.get("cseq", "0")
        lines = [f"RTSP/1.0 {status} {_REASONS[status]}", f"CSeq: {sequence}", f"Server: {_SERVER}"]
        if request.method in ("SETUP", "PLAY", "GET_PARAMETER", "SET_PARAMETER") and status == 200:
            lines.append(f"Session: {self._session};timeout=60")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        lines.append(f"Content-Length: {len(body.encode())}")
        self._writer.write(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
        await self._writer.drain()
        return True


def _interleaved(channel: int, packet: bytes) -> bytes:
    return struct.pack("!cBH", b"$", channel, len(packet)) + packet


def _channels(transport: str) -> tuple[int, int]:
    for part in transport.split(";"):
        name, _, value = part.strip().partition("=")
        first, _, second = value.partition("-")
        if name == "interleaved" and first.isdigit() and int(first) < 255:
            return int(first), int(second) if second.isdigit() and int(second) < 256 else int(first) + 1
    return 0, 1


def _description(camera: Camera) -> str:
    """The session description (RFC 4566) of the camera's one track."""
    lines = ["v=0", "o=- 0 0 IN IP4 0.0.0.0", f"s={camera.name}", "c=IN IP4 0.0.0.0", "t=0 0", "a=control:*"]
    if camera.fault.kind == FaultKind.AUDIO_ONLY:
        lines += ["m=audio 0 RTP/AVP 0", f"a=rtpmap:0 PCMU/{AUDIO_HZ}", "a=control:track0"]
    else:
        sps, pps = camera.parameter_sets
        sets = ",".join(base64.b64encode(unit).decode() for unit in (sps, pps))
        lines += [
            f"m=video 0 RTP/AVP {PAYLOAD_TYPE}",
            f"a=rtpmap:{PAYLOAD_TYPE} H264/{RTP_CLOCK_HZ}",
            f"a=fmtp:{PAYLOAD_TYPE} packetization-mode=1;profile-level-id={sps[1:4].hex().upper()};"
            f"sprop-parameter-sets={sets}",
            f"a=framerate:{camera.fps}",
            "a=control:track0",
        ]
    return "\r\n".join(lines) + "\r\n"
