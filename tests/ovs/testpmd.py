"""DPDK's own test program on a vhost-user port, like an application in a pod: virtio-user, and it listens.

It needs no huge pages and no device. It forwards only between `answer_pings` or `send` and `stop`, because it then
polls and takes a whole CPU; in between it waits for commands and takes none.
"""

from __future__ import annotations

import os
import re
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.ovs.daemon import LEASH, until

START_SECONDS = 30.0
"""Seconds until the vswitch has connected, which it tries once a second."""
ANSWER_SECONDS = 20.0
END_SECONDS = 10.0
PROMPT = b"testpmd> "
BURST = 32
"""Packets that testpmd sends at once."""
# It requires two logical cores: for commands and for packets. Neither is bound to a CPU.
EAL = "--no-huge --no-pci --no-telemetry --file-prefix=testpmd -m 64 --lcores=0@({cpus}),1@({cpus})"
# Without line buffering the output stays in the program, because its stdout is a pipe.
PROGRAM = ("stdbuf", "-oL", "dpdk-testpmd")


class TestpmdError(Exception):
    """testpmd did not start, or did not respond."""

    __test__ = False


@dataclass(frozen=True)
class Statistics:
    """Packets that the application received and sent."""

    received: int
    sent: int


class Testpmd:
    """The program, from `with` to its end. `queues` counts pairs."""

    __test__ = False

    def __init__(self, path: Path | str, mac: str, *, queues: int = 1, within: tuple[str, ...] = ()) -> None:
        self._path, self._mac, self._queues, self._within = path, mac, queues, within

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(prefix="testpmd-")
        self._process = subprocess.Popen(
            [*LEASH, *self._within, *PROGRAM, *self._arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "RUNTIME_DIRECTORY": self._folder.name},
        )
        try:
            self._answer(START_SECONDS, "start")
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self.end()

    def end(self) -> None:
        self._process.kill()
        self._process.wait(END_SECONDS)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            stream.close()
        Path(self._path).unlink(missing_ok=True)
        self._folder.cleanup()

    def link_up(self) -> bool:
        return "Link status: up" in self.run("show port info 0")

    def await_link(self, seconds: float = ANSWER_SECONDS) -> None:
        until(f"testpmd's link on {self._path}", self.link_up, seconds)

    def answer_pings(self) -> None:
        """Makes it answer ARP requests and pings, whatever the address."""
        self.run("set fwd icmpecho")
        self.run("start")

    def send(self, bursts: int) -> int:
        """Sends that many bursts on each queue, to no particular address. Returns the number of packets after all were
        sent.
        """
        before = self.statistics().sent
        self.run("set fwd rxonly")
        self.run(f"start tx_first {bursts}")
        self.stop()
        return self.statistics().sent - before

    def stop(self) -> None:
        self.run("stop")

    def statistics(self) -> Statistics:
        text = self.run("show port stats 0")
        counters = {name: int(number) for name, number in re.findall(r"\b([RT]X-packets): (\d+)", text)}
        return Statistics(received=counters["RX-packets"], sent=counters["TX-packets"])

    def run(self, command: str) -> str:
        """The output of a command of testpmd's own language."""
        stdin = self._process.stdin
        assert stdin
        stdin.write(command.encode() + b"\n")
        stdin.flush()
        return self._answer(ANSWER_SECONDS, command)

    def _answer(self, seconds: float, what: str) -> str:
        assert self._process.stdout
        output = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        received = b""
        while not received.endswith(PROMPT):
            ready, _, _ = select.select([output], [], [], max(deadline - time.monotonic(), 0))
            more = os.read(output, 65536) if ready else b""
            if not more:
                words = received.decode(errors="replace")
                raise TestpmdError(
                    f"no answer to {what!r} within {seconds:.0f} s, status {self._process.poll()}: {words}"
                )
            received += more
        return received.decode(errors="replace")

    def _arguments(self) -> list[str]:
        queues = self._queues
        device = f"net_virtio_user0,path={self._path},server=1,queues={queues},mac={self._mac}"
        eal = EAL.format(cpus=",".join(map(str, sorted(os.sched_getaffinity(0)))))
        return [
            *eal.split(),
            f"--vdev={device}",
            *f"-- --interactive --total-num-mbufs=2048 --nb-cores=1 --rxq={queues} --txq={queues}".split(),
        ]
