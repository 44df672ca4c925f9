"""The worker's end of a camera's process."""

import multiprocessing
import time

from services.ingest import capture
from services.ingest.capture import ALIVE_US, DROPPED, NUM_TALLIES, SEEN, CaptureConfig
from services.ingest.link import Command, Message, Quit, pack_command, unpack_message

_KILL_TIMEOUT_S = 5.0


class ProcessDied(Exception):
    """The camera's process ended without being asked, or spoke nonsense; the message says how."""


class CameraProcess:
    """A process of its own for one source.

    Not thread-safe, but `quit` and `kill` may be called from any thread.
    """

    def __init__(self, config: CaptureConfig) -> None:
        # Forked from a small server that holds the imports and nothing else, and starts in milliseconds. A fork
        # of the worker itself would share the Kafka clients' sockets and locks with the parser of hostile media.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([capture.__name__])
        self._link, link_of_child = context.Pipe()
        self._tallies = context.Array("Q", NUM_TALLIES, lock=False)
        self._told = [0] * NUM_TALLIES
        self._process = context.Process(
            target=capture.run_capture,
            args=(config, link_of_child, self._tallies),
            name="camera",
            daemon=True,
        )
        self._process.start()
        # Else the end of the process would not show as the end of the pipe.
        link_of_child.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def alive_s(self) -> float:
        """When it last got something done, on the monotonic clock; 0 before that."""
        return int(self._tallies[ALIVE_US]) / 1e6

    def take_tallies(self) -> tuple[int, int]:
        """Pictures seen and frames dropped since the last call."""
        now = [int(self._tallies[SEEN]), int(self._tallies[DROPPED])]
        seen, dropped = now[SEEN] - self._told[SEEN], now[DROPPED] - self._told[DROPPED]
        self._told = now
        return seen, dropped

    def send(self, command: Command) -> None:
        try:
            self._link.send_bytes(pack_command(command))
        except OSError as error:
            raise self._died() from error

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, None where there is none in time. Raises ProcessDied."""
        try:
            if not self._link.poll(timeout_s):
                return None
            return unpack_message(self._link.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._died() from error
        except ValueError as error:
            self.kill()
            raise ProcessDied("the process that reads the source spoke nonsense") from error

    def quit(self) -> None:
        """Asks it to leave the source in order; returns at once."""
        try:
            self._link.send_bytes(pack_command(Quit()))
        except OSError:
            pass  # it has ended already

    def join(self, timeout_s: float) -> bool:
        self._process.join(timeout_s)
        return not self._process.is_alive()

    def kill(self) -> None:
        self._process.kill()
        self._process.join(_KILL_TIMEOUT_S)

    def close(self, grace_s: float) -> None:
        """Ends it, in order if it does so within `grace_s`."""
        self.quit()
        deadline_s = time.monotonic() + grace_s
        # What it still has to say is read and thrown away: a process that writes to a full pipe hears
        # nothing.
        while self._process.is_alive() and (left_s := deadline_s - time.monotonic()) > 0:
            try:
                if self._link.poll(min(left_s, 0.05)):
                    self._link.recv_bytes()
            except (EOFError, OSError):
                self._process.join(max(0.0, left_s))
                break
        if self._process.is_alive():
            self.kill()
        self._link.close()

    def _died(self) -> ProcessDied:
        self._process.join(_KILL_TIMEOUT_S)
        code = self._process.exitcode
        how = f"by signal {-code}" if code is not None and code < 0 else f"with exit code {code}"
        return ProcessDied(f"the process that reads the source died {how}")
