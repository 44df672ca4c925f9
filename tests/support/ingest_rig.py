"""Ingest workers on a real Kafka, and what they wrote."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
from kafka import TopicPartition

from services.ingest.worker import Worker
from services.shared.control_log import ControlReader, ControlView, ControlWriter, stream_key
from services.shared.kafka import reader
from services.shared.settings import Settings
from services.shared.topics import Topics
from streamo.v1.control_pb2 import ControlRecord
from streamo.v1.frame_pb2 import Frame, FrameRecord, SourceState, SourceStatus
from streamo.v1.stream_pb2 import Stream
from tests.support.counting_telemetry import CountingTelemetry
from tests.support.waiting import poll_until

WAIT_S = 40.0


class WorkerThread:
    """A worker in this process; `stop` raises what it died of."""

    def __init__(self, settings: Settings) -> None:
        self.telemetry = CountingTelemetry("ingest")
        self.error: BaseException | None = None
        self._stop = threading.Event()
        self._worker = Worker(settings, self.telemetry)
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._worker.run(self._stop)
        except BaseException as error:
            self.error = error

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error


class WorkerProcess:
    """python -m services.ingest."""

    def __init__(self, settings: Settings, log_path: Path) -> None:
        self.log_path = log_path
        with log_path.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.ingest"],
                env={**_plain_environment(), **settings.environment()},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def children(self) -> list[psutil.Process]:
        """The processes of its cameras."""
        return camera_processes(psutil.Process(self.process.pid))

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)


def _plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("STREAMO_")}


def camera_processes(worker: psutil.Process) -> list[psutil.Process]:
    """Grandchildren: the children are multiprocessing's fork server and its resource tracker."""
    found = []
    for child in worker.children():
        try:
            found += [one for one in child.children() if one.status() != psutil.STATUS_ZOMBIE]
        except psutil.NoSuchProcess:
            continue
    return found


class Rig:
    """Adds streams and reads what ingest made of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.control = ControlWriter(settings.kafka)
        self._view = ControlReader(settings.kafka)
        self._view.start()
        topic = Topics.of(settings.kafka).frames
        self._partitions = [TopicPartition(topic, number) for number in range(settings.kafka.partitions)]
        self._reader = reader(settings.kafka, self._partitions)
        self._reader.seek_to_beginning(*self._partitions)
        self._workers: list[WorkerThread | WorkerProcess] = []
        self.records: list[tuple[int, bytes, FrameRecord]] = []

    def start_worker(self) -> WorkerThread:
        worker = WorkerThread(self.settings)
        self._workers.append(worker)
        return worker

    def start_worker_process(self, log_path: Path) -> WorkerProcess:
        worker = WorkerProcess(self.settings, log_path)
        self._workers.append(worker)
        return worker

    def add(self, stream_id: str, source: str, username: str = "", password: str = "") -> int:
        """The stream's version."""
        stream = Stream(
            stream_id=stream_id,
            source=source,
            username=username,
            password=password,
            added_at_us=time.time_ns() // 1000,
        )
        return self.control.write(stream_key(stream_id), ControlRecord(stream=stream))

    def remove(self, stream_id: str) -> None:
        self.control.write(stream_key(stream_id), None)

    @property
    def view(self) -> ControlView:
        return self._view.view

    def read(self, stream_id: str) -> list[FrameRecord]:
        """All records of the stream so far, in order."""
        for partition, records in self._reader.poll(timeout_ms=50).items():
            for record in records:
                self.records.append((partition.partition, record.key, FrameRecord.FromString(record.value)))
        return [record for _, key, record in self.records if key == stream_id.encode()]

    def frames(self, stream_id: str, epoch: int | None = None) -> list[Frame]:
        return [
            frame
            for record in self.read(stream_id)
            for frame in record.frames.frames
            if epoch in (None, record.epoch)
        ]

    def statuses(self, stream_id: str) -> list[SourceStatus]:
        return [record.status for record in self.read(stream_id) if record.HasField("status")]

    def epochs(self, stream_id: str) -> list[int]:
        """In order of appearance."""
        return list(dict.fromkeys(record.epoch for record in self.read(stream_id)))

    def wait_frames(self, stream_id: str, count: int, epoch: int | None = None) -> list[Frame]:
        what = f"{count} frames of {stream_id}"
        return poll_until(
            lambda: found if len(found := self.frames(stream_id, epoch)) >= count else None, WAIT_S, what
        )

    def wait_status(self, stream_id: str, state: SourceState) -> SourceStatus:
        def found() -> SourceStatus | None:
            return next((status for status in self.statuses(stream_id) if status.state == state), None)

        return poll_until(found, WAIT_S, f"{SourceState.Name(state)} of {stream_id}")

    def close(self) -> None:
        for worker in self._workers:
            if isinstance(worker, WorkerThread):
                worker.stop()
            else:
                if worker.process.poll() is None:
                    worker.kill()
                print(worker.log_path.read_text())  # pytest shows it where the test failed
        self._reader.close()
        self._view.stop()
        self.control.close()


def picture_of(frame: Frame) -> np.ndarray:
    return np.frombuffer(frame.data, np.uint8).reshape(frame.height, frame.width, 3)
