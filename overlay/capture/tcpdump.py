"""One tcpdump per capture, ended by its own process; a capture that lost packets is an error."""

from __future__ import annotations

import re
import select
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from overlay.errors import CaptureFailed, MissingRequirement

_START_SECONDS = 10.0
_STOP_SECONDS = 10.0
_COUNT = re.compile(r"^(\d+) packets? (captured|received by filter|dropped by \w+)", re.MULTILINE)


@dataclass(frozen=True)
class Counts:
    """tcpdump's own account of a capture, in packets.

    Attributes:
        captured: written to the file.
        received: seen by the kernel's filter, the dropped ones included.
        dropped: lost by the kernel or the interface for want of room.
    """

    captured: int
    received: int
    dropped: int

    @property
    def unread(self) -> int:
        """Packets that still waited in the kernel when tcpdump was told to stop."""
        return max(0, self.received - self.dropped - self.captured)


def parse_counts(text: str) -> Counts:
    """Read the lines that tcpdump prints when it ends.

    Raises:
        CaptureFailed: the lines are not there, so nothing is known about losses.
    """
    found = {label: int(number) for number, label in _COUNT.findall(text)}
    if "captured" not in found or "received by filter" not in found:
        raise CaptureFailed("tcpdump ended without its packet counts", why=text.strip()[-300:])
    dropped = sum(number for label, number in found.items() if label.startswith("dropped"))
    return Counts(found["captured"], found["received by filter"], dropped)


class Capture:
    """A capture of one interface, as a context manager; `counts` is known after the block.

    Args:
        interface: a bridge (all frames that it forwards are seen) or any other interface.
        path: where the pcap file goes; it is readable by its owner only.
        snaplen: bytes kept of each packet. 128 holds every outer header and no more.
        buffer_kib: the kernel's buffer. Large, so that a burst is not lost.

    Raises:
        MissingRequirement: there is no tcpdump.
        CaptureFailed: tcpdump did not start, or lost packets.
    """

    def __init__(
        self, interface: str, path: Path, *, snaplen: int = 128, buffer_kib: int = 65_536
    ) -> None:
        self.interface = interface
        self.path = path
        self.counts: Counts | None = None
        self._options = ["--snapshot-length", str(snaplen), "-B", str(buffer_kib)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return once packets are being captured."""
        program = shutil.which("tcpdump")
        if program is None:
            raise MissingRequirement("tcpdump is not installed", next_step="apt install tcpdump")
        # Immediate mode, or the last second would be lost in a buffer that tcpdump never reads.
        # A session of its own, so that Ctrl-C in a terminal stops the capture through us only.
        argv = [program, "-n", "-i", self.interface, "--immediate-mode", *self._options, "-w", "-"]
        self.path.touch(mode=0o600)
        with self.path.open("wb") as stream:
            self._process = subprocess.Popen(
                argv, stdout=stream, stderr=subprocess.PIPE, start_new_session=True
            )
        said = self._wait_for(b"listening on")
        if b"listening on" not in said:
            self._kill()
            raise CaptureFailed(
                f"tcpdump did not start on {self.interface}",
                why=said.decode(errors="replace").strip()[-300:],
                next_step="run as root, and look at `ip link`",
            )

    def stop(self) -> Counts:
        """Stop and return the counts.

        Raises:
            CaptureFailed: packets were lost, so the capture proves nothing.
        """
        if self._process is None:
            raise CaptureFailed(f"no capture runs on {self.interface}")
        self._process.send_signal(signal.SIGINT)
        try:
            said = self._process.communicate(timeout=_STOP_SECONDS)[1].decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            self._kill()
            raise CaptureFailed(f"tcpdump on {self.interface} did not end when asked") from error
        self._process = None
        self.counts = parse_counts(said)
        if self.counts.dropped:
            raise CaptureFailed(
                f"the capture of {self.interface} lost {self.counts.dropped} packets",
                why="the kernel's buffer was full",
                next_step="capture again on a quieter machine",
            )
        return self.counts

    def __enter__(self) -> Capture:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self._kill()  # the block's own error is the one to show

    def _wait_for(self, words: bytes) -> bytes:
        assert self._process is not None  # noqa: S101
        assert self._process.stderr is not None  # noqa: S101
        said, deadline = b"", time.monotonic() + _START_SECONDS
        while words not in said and (left := deadline - time.monotonic()) > 0:
            if not select.select([self._process.stderr], [], [], left)[0]:
                break
            chunk = self._process.stderr.read1(4096)  # type: ignore[attr-defined]
            if not chunk:
                break
            said += chunk
        return said

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None
