"""Runs simulated cameras: python -m services.camera --streams gate=7 yard=8 --port 8554"""

import argparse
import asyncio
import json
import re
import secrets
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from models.data.place.layout import PLACE_HEIGHT, PLACE_WIDTH
from services.camera.access import Access
from services.camera.camera import Camera
from services.camera.fault import Fault
from services.camera.fault_control import FaultControl
from services.camera.picture_source import FileSource, PictureSource, PlaceSource
from services.camera.rtsp_server import RtspServer
from services.camera.truth import Truth

_NAME = re.compile(r"[a-z0-9._-]{1,64}")


def main() -> None:
    parser = _parser()
    arguments = parser.parse_args()
    try:
        cameras = _cameras(arguments)
        access = _access(arguments)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    asyncio.run(_serve(arguments, cameras, access))


async def _serve(arguments: argparse.Namespace, cameras: dict[str, Camera], access: Access | None) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    control = None
    if arguments.control_port is not None:
        control = FaultControl(cameras, arguments.control_port)
        await _listen(control.start, f"--control-port {arguments.control_port}")
    server = RtspServer(cameras, access, arguments.host, arguments.port)
    await _listen(server.start, f"--port {arguments.port}")
    writing = None
    if arguments.truth is not None:
        truth = Truth(arguments.truth, list(cameras.values()))
        truth.write()
        writing = asyncio.create_task(truth.keep_writing())
    for camera in cameras.values():
        line = {
            "name": camera.name,
            "url": server.url(camera.name),
            "seed": camera.source.seed if isinstance(camera.source, PlaceSource) else None,
            "file": str(camera.source.path) if isinstance(camera.source, FileSource) else None,
            "started_at_us": camera.started_at_us,
            "control_port": control.port if control is not None else None,
        }
        print(json.dumps(line), flush=True)
    while not stop.is_set():
        broken = next((c for c in cameras.values() if c.failure is not None), None)
        if broken is not None or (writing is not None and writing.done()):
            sys.exit(f"camera failed: {broken.failure if broken else writing and writing.exception()}")
        try:
            await asyncio.wait_for(stop.wait(), 1.0)
        except TimeoutError:
            continue
    if writing is not None:
        writing.cancel()
    if control is not None:
        control.close()
    await server.close()


async def _listen(start: Callable[[], Awaitable[None]], option: str) -> None:
    try:
        await start()
    except OSError as error:
        sys.exit(f"{option} cannot be listened on: {error}; 0 takes any free one")


def _cameras(arguments: argparse.Namespace) -> dict[str, Camera]:
    sources: dict[str, PictureSource] = {}
    for name, value in (_pair(text) for text in arguments.streams):
        if not re.fullmatch(r"\d+", value):
            raise ValueError(f"--streams {name}={value}: the seed must be a whole number")
        sources[name] = PlaceSource(int(value), arguments.split)
    for name, value in (_pair(text) for text in arguments.file):
        sources[name] = FileSource(Path(value))
    if not sources:
        raise ValueError("no camera: give --streams NAME=SEED or --file NAME=VIDEO")
    width, height = arguments.size
    cameras = {
        name: Camera(name, source, height=height, width=width, fps=arguments.fps)
        for name, source in sources.items()
    }
    for name, value in (_pair(text) for text in arguments.fault):
        if name not in cameras:
            raise ValueError(f"--fault {name}={value}: no camera of this name")
        cameras[name].fault = Fault.parse(value)
    return cameras


def _access(arguments: argparse.Namespace) -> Access | None:
    if not arguments.user:
        return None
    username, colon, password = arguments.user.partition(":")
    if not username or not colon:
        raise ValueError("--user: must be NAME:PASSWORD")
    return Access(username, password, secrets.token_hex(16), arguments.auth)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise ValueError(f"{text!r}: must be NAME=VALUE, NAME of 1 to 64 of [a-z0-9._-]")
    return name, value


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: must be WIDTHxHEIGHT, for example 560x448")
    return int(match[1]), int(match[2])


def _fps(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 60:
        raise argparse.ArgumentTypeError(f"{text!r}: must be a whole number from 1 to 60")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.camera", description=__doc__)
    parser.add_argument(
        "--streams", nargs="+", default=[], metavar="NAME=SEED", help="cameras on simulated places"
    )
    parser.add_argument(
        "--file", nargs="+", default=[], metavar="NAME=VIDEO", help="cameras on looped video files"
    )
    parser.add_argument(
        "--split", default="demo", choices=("demo", "test"), help="which seeds the places are from"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8554, help="0 takes any free one")
    parser.add_argument(
        "--size", type=_size, default=(4 * PLACE_WIDTH, 4 * PLACE_HEIGHT), metavar="WIDTHxHEIGHT"
    )
    parser.add_argument("--fps", type=_fps, default=10)
    parser.add_argument("--truth", type=Path, metavar="DIR", help="write what each place really shows")
    parser.add_argument("--user", metavar="NAME:PASSWORD", help="ask viewers for these")
    parser.add_argument("--auth", choices=("digest", "basic"), default="digest")
    parser.add_argument("--fault", nargs="+", default=[], metavar="NAME=KIND[:FRAMES]", help="fail like this")
    parser.add_argument(
        "--control-port", type=int, metavar="PORT", help="switch faults here; 0 takes any free one"
    )
    return parser


if __name__ == "__main__":
    main()
