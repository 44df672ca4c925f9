"""Switches faults while cameras run: a line `NAME FAULT` on a loopback port is answered `ok` or why not."""

import asyncio
from collections.abc import Mapping

from services.camera.camera import Camera
from services.camera.fault import Fault


class FaultControl:
    def __init__(self, cameras: Mapping[str, Camera], port: int = 0) -> None:
        self._cameras = cameras
        self._server: asyncio.Server | None = None
        self.port = port

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write((self._switch(line.decode("utf-8", "replace").split()) + "\n").encode())
                await writer.drain()
        except ConnectionError:
            pass  # whoever switched has gone
        finally:
            writer.close()

    def _switch(self, words: list[str]) -> str:
        if len(words) != 2 or words[0] not in self._cameras:
            return f"say NAME FAULT; the cameras are {', '.join(self._cameras)}"
        try:
            self._cameras[words[0]].set_fault(Fault.parse(words[1]))
        except ValueError as error:
            return str(error)
        return "ok"
