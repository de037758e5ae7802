"""A virtual machine that runs tests/ovs/guest_init: its process, and its shell, which responds over a virtio port.

The guest's side of that port is our socket, to which QEMU connects, so that no output of the guest is lost.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.ovs.daemon import LEASH, until

BOOT_SECONDS = 60.0
"""From the process's start to the guest's first output; it takes 2 to 3 s with a CPU of its own."""
ANSWER_SECONDS = 30.0
END_SECONDS = 10.0
ANSWER = re.compile(rb"([^\x1e]*)\x1e([0-9]+)\n")
CARD = "/sys/class/net/eth0"


class MachineError(Exception):
    """The machine did not start, did not respond, or refused a command."""


@dataclass(frozen=True)
class Link:
    """The guest's first network card as the guest sees it. `up`: the vswitch is connected. `queues`: pairs in use."""

    up: bool
    mac: str
    mtu: int
    queues: int


class Machine(ABC):
    """Starts with `with`, and does not wait; the methods wait until the guest is up.

    `within` is the command that starts a program in the namespace of its sockets.
    """

    def __init__(self, within: tuple[str, ...] = ()) -> None:
        self._within = within
        self._shell: socket.socket | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="guest-"))  # short: a socket's path has at most 107 bytes
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(str(self.folder / "shell"))
            self._listener.listen()
            self._start()
        except BaseException:
            self._tidy()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def end(self) -> None:
        """Ends it at once, without notifying the guest. The sockets are removed, because a killed QEMU leaves them."""
        self._stop()
        for path in self._sockets():
            path.unlink(missing_ok=True)
        self._tidy()

    def ready(self) -> Self:
        self._connected()
        return self

    def run(self, command: str, *, seconds: float = ANSWER_SECONDS) -> str:
        """The output of a shell command (busybox has the tools). Raises MachineError if it fails."""
        status, output = self.attempt(command, seconds=seconds)
        if status:
            raise MachineError(f"{command!r} ended with {status}: {output}")
        return output

    def attempt(self, command: str, *, seconds: float = ANSWER_SECONDS) -> tuple[int, str]:
        """Status and output of a shell command of one line."""
        shell = self._connected()
        shell.sendall(command.encode() + b"\n")
        return read_answer(shell.fileno(), seconds, command, self.log)

    def ping(self, address: str, count: int = 3, *, interval: float = 0.2) -> int:
        """The number of `count` requests that were answered; the last one may take a second.

        The vswitch drops frames while it takes over a port that has connected: if an answer is expected, await the
        first one with `reaches`.
        """
        command = f"ping -q -c {count} -i {interval} -W 1 {shlex.quote(address)}"
        _status, output = self.attempt(command, seconds=ANSWER_SECONDS + count * interval)
        found = re.search(r"(\d+) packets received", output)
        return int(found[1]) if found else 0

    def reaches(self, address: str, seconds: int = 10) -> bool:
        """Whether a ping is answered within that time; the guest sends one each second."""
        once = f"ping -q -c 1 -W 1 {shlex.quote(address)} >/dev/null"
        loop = f"for try in $(seq {seconds}); do ! {once} || exit 0; done; exit 1"
        return self.attempt(loop, seconds=seconds + ANSWER_SECONDS)[0] == 0

    def link(self) -> Link:
        files = " ".join(f"{CARD}/{name}" for name in ("carrier", "address", "mtu"))
        up, mac, mtu, queues = self.run(f"cat {files}; ls -d {CARD}/queues/rx-* | wc -l").split()
        return Link(up == "1", mac, int(mtu), int(queues))

    def await_link(self, *, up: bool = True, seconds: float = ANSWER_SECONDS) -> None:
        """Returns when the card has, or has lost, its carrier: the vswitch connected, or disconnected."""
        until(f"the guest's link {'up' if up else 'down'}", lambda: self.link().up == up, seconds)

    def log(self) -> str:
        """The output of the machine's programs and of the guest's kernel."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    @abstractmethod
    def _command(self) -> list[str]:
        """The command that starts it."""

    @abstractmethod
    def _sockets(self) -> list[Path]:
        """The sockets on which it listens."""

    def _start(self) -> None:
        with (self.folder / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                [*LEASH, *self._within, *self._command()], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait(END_SECONDS)

    def _tidy(self) -> None:
        if self._shell:
            self._shell.close()
        self._listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _connected(self) -> socket.socket:
        if not self._shell:
            deadline = time.monotonic() + BOOT_SECONDS
            self._shell = self._accept(BOOT_SECONDS)
            self._await_boot(deadline - time.monotonic())
        return self._shell

    def _await_boot(self, seconds: float = BOOT_SECONDS) -> None:
        """Returns when the shell has answered for the first time since the guest's start."""
        assert self._shell
        read_answer(self._shell.fileno(), seconds, "booting", self.log)

    def _accept(self, seconds: float) -> socket.socket:
        process = os.pidfd_open(self._process.pid)
        try:
            events = select.select([self._listener.fileno(), process], [], [], seconds)[0]
        finally:
            os.close(process)
        if self._listener.fileno() not in events:
            raise MachineError(f"QEMU did not start the guest (status {self._process.poll()}): {self.log()}")
        return self._listener.accept()[0]


def read_answer(stream: int, seconds: float, what: str, log: Callable[[], str]) -> tuple[int, str]:
    """Reads status and output, as a shell sends them: the output, a record separator, the status, a newline."""
    deadline = time.monotonic() + seconds
    received = b""
    while not (answer := ANSWER.fullmatch(received)):
        ready = select.select([stream], [], [], max(deadline - time.monotonic(), 0))[0]
        more = b""
        with suppress(ConnectionResetError):
            more = os.read(stream, 65536) if ready else b""
        if not more:
            raise MachineError(f"{what!r} had no answer within {seconds:.0f} s: {received!r} {log()}")
        received += more
    return int(answer[2]), answer[1].decode(errors="replace")
