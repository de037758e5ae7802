"""A virtual machine that runs tests/ovs/guest_init: its process, and the shell inside that answers over a virtio port.

The guest's side of that port is a socket of ours, to which QEMU connects: so nothing that the guest says is lost.
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
"""From the process's start to the guest's first word; alone on a CPU it takes 2 to 3."""
ANSWER_SECONDS = 30.0
END_SECONDS = 10.0
ANSWER = re.compile(rb"([^\x1e]*)\x1e([0-9]+)\n")
CARD = "/sys/class/net/eth0"


class MachineError(Exception):
    """The machine did not start, did not answer, or refused a command."""


@dataclass(frozen=True)
class Link:
    """The guest's first network card as the guest sees it. `up`: the vswitch is connected. `queues`: pairs in use."""

    up: bool
    mac: str
    mtu: int
    queues: int


class Machine(ABC):
    """Starts with `with`, and does not wait; the methods wait until the guest is up. `within` is what starts a program in
    the namespace where its sockets are."""

    def __init__(self, within: tuple[str, ...] = ()) -> None:
        self._within = within
        self._shell: socket.socket | None = None

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix="guest-"))  # short: a socket's path has 107 bytes
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
        """At once, without asking the guest. The sockets are removed: QEMU, being killed, could not do it."""
        self._stop()
        for path in self._sockets():
            path.unlink(missing_ok=True)
        self._tidy()

    def ready(self) -> Self:
        self._connected()
        return self

    def run(self, command: str, *, seconds: float = ANSWER_SECONDS) -> str:
        """The output of a shell command (busybox has the tools). Raises MachineError when it fails."""
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
        """How many of `count` requests were answered; the last one may take a second. The vswitch drops frames while it
        takes over a port that has connected: where an answer is expected, await the first one by `reaches`."""
        command = f"ping -q -c {count} -i {interval} -W 1 {shlex.quote(address)}"
        _status, output = self.attempt(command, seconds=ANSWER_SECONDS + count * interval)
        found = re.search(r"(\d+) packets received", output)
        return int(found[1]) if found else 0

    def reaches(self, address: str, seconds: int = 10) -> bool:
        """Whether a ping is answered within that time; asks once a second, in the guest."""
        once = f"ping -q -c 1 -W 1 {shlex.quote(address)} >/dev/null"
        loop = f"for try in $(seq {seconds}); do ! {once} || exit 0; done; exit 1"
        return self.attempt(loop, seconds=seconds + ANSWER_SECONDS)[0] == 0

    def link(self) -> Link:
        files = " ".join(f"{CARD}/{name}" for name in ("carrier", "address", "mtu"))
        up, mac, mtu, queues = self.run(f"cat {files}; ls -d {CARD}/queues/rx-* | wc -l").split()
        return Link(up == "1", mac, int(mtu), int(queues))

    def await_link(self, *, up: bool = True, seconds: float = ANSWER_SECONDS) -> None:
        """Returns when the card has, or has lost, its carrier: the vswitch connected, or went away."""
        until(f"the guest's link {'up' if up else 'down'}", lambda: self.link().up == up, seconds)

    def log(self) -> str:
        """What the machine's programs and the guest's kernel had to say."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))

    @abstractmethod
    def _command(self) -> list[str]:
        """What starts it."""

    @abstractmethod
    def _sockets(self) -> list[Path]:
        """The sockets that it is to listen on."""

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
    """Status and output, as a shell sends them: the output, a record separator, the status, the end of the line."""
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
