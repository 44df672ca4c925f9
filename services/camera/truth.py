"""What a camera really shows, written down for whoever scores what was said about it."""

import asyncio
import json
import os
import time
from pathlib import Path

from services.camera.camera import Camera
from services.camera.picture_source import PlaceSource


class Truth:
    """NAME.json of every camera on a place: its script up to at least a minute ahead, and when it began.

    Script time t is shown at wall clock `started_at_us` + t. The file is replaced whole as time goes on.
    """

    def __init__(self, directory: Path, cameras: list[Camera]) -> None:
        self._directory = directory
        self._cameras = cameras

    def write(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        for camera in self._cameras:
            if isinstance(camera.source, PlaceSource):
                self._write_one(camera, camera.source)

    async def keep_writing(self, period_s: float = 30.0) -> None:
        while True:
            await asyncio.sleep(period_s)
            await asyncio.to_thread(self.write)

    def _write_one(self, camera: Camera, source: PlaceSource) -> None:
        now_ms = (time.time_ns() // 1000 - camera.started_at_us) // 1000
        truth = {
            "name": camera.name,
            "seed": source.seed,
            "split": source.split,
            "fps": camera.fps,
            "started_at_us": camera.started_at_us,
            "script": json.loads(source.script_json(now_ms + source.segment_ms)),
        }
        path = self._directory / f"{camera.name}.json"
        partial = path.with_suffix(".json.partial")
        partial.write_text(json.dumps(truth))
        os.replace(partial, path)
