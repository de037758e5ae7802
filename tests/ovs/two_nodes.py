"""Two nodes whose bridges br0 are joined, pings from the first node, and announcements between the nodes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import ExitStack
from itertools import pairwise
from threading import Thread
from typing import Any, Self

from tests.cli.program import Program
from tests.ovs.daemon import COMMAND_SECONDS, LEASH
from tests.ovs.node import Node

ENDS = ("join0", "join1")
PING_SECONDS = 0.05
"""Between two requests."""
# Writes a line of JSON for each frame of a source that is an ARP or RARP packet; those of a VLAN, too.
HEAR = """
import json, socket, sys
here = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
here.bind((sys.argv[1], 0))
print(flush=True)
while True:
    frame, address = here.recvfrom(2048)
    if address[2] == socket.PACKET_OUTGOING or frame[6:12].hex(":") != sys.argv[2]:
        continue
    packet = frame[16:] if frame[12:14] == b"\\x81\\x00" else frame[12:]
    kind = packet[:2].hex()
    if kind in ("0806", "8035"):
        print(json.dumps({"kind": kind, "sender": packet[16:20].hex(), "target": packet[26:30].hex()}), flush=True)
"""


class TwoNodes:
    """Created with `with`; each node has one of the addresses, in the VLAN `vlan`. The first one pings."""

    def __init__(self, program: Program, addresses: tuple[str, str], vlan: int) -> None:
        self._program, self._addresses, self._vlan = program, addresses, vlan
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self.nodes = [starting.enter_context(Node(self._program)) for _end in ENDS]
            self.join()
            self._ends = starting.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ends.close()

    def pinging(self, address: str) -> Pings:
        return Pings([*self._inside(self.nodes[0]), "ping", "-D", "-O", "-i", str(PING_SECONDS), address])

    def hearing(self, number: int, mac: str) -> Hearing:
        """The packets of an address that a node receives from the other one."""
        return Hearing([*self._inside(self.nodes[number]), sys.executable, "-c", HEAR, ENDS[number], mac])

    def port_of(self, number: int, mac: str) -> str:
        """The port where the bridge of a node knows the address; empty if it does not."""
        daemon = self.nodes[number].daemon
        lines = [line.split() for line in daemon.appctl("fdb/show", "br0").splitlines()]
        found = [port for port, vlan, known, _age in lines if (vlan, known) == (str(self._vlan), mac)]
        if not found:
            return ""
        if found == ["LOCAL"]:
            return "br0"
        return daemon.vsctl("--bare", "--columns=name", "find", "Interface", f"ofport={found[0]}")

    def join(self) -> None:
        """Joins the bridges. A vswitchd that has been started again is in a new network namespace without its end."""
        one, two = self.nodes
        join = ["ip", "link", "add", ENDS[0], "netns", _vswitchd(one), "type", "veth", "peer", ENDS[1]]
        _done(*join, "netns", _vswitchd(two))
        for node, end, address in zip(self.nodes, ENDS, self._addresses, strict=True):
            # In one transaction, Open vSwitch would keep the port's old device.
            node.daemon.vsctl("--if-exists", "del-port", end)
            node.daemon.vsctl("add-port", "br0", end, "--", "set", "Port", "br0", f"tag={self._vlan}")
            for link in ("br0", end):
                _done(*self._inside(node), "ip", "link", "set", link, "up")
            _done(*self._inside(node), "ip", "address", "replace", f"{address}/24", "dev", "br0")

    @staticmethod
    def _inside(node: Node) -> list[str]:
        """Starts a program in the network namespace of the node's vswitchd, where the ends of the join are."""
        return ["nsenter", f"--target={_vswitchd(node)}", "--net"]


class _Program:
    """A program that writes lines until the end of `with`; `lines` has those that it has written."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([*LEASH, *self._argv], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout
        self._process.stdout.readline()
        self._reader = Thread(target=self.lines.extend, args=(self._process.stdout,))
        self._reader.start()
        return self

    def __exit__(self, kind: object, *_exc: object) -> None:
        has_run = self._process.poll() is None
        self._process.terminate()
        self._reader.join(COMMAND_SECONDS)
        self._process.communicate(timeout=COMMAND_SECONDS)
        assert has_run or kind, f"{self._argv} has ended before: {self.lines[-1:]}"


class Pings(_Program):
    """Pings without end."""

    @property
    def gap(self) -> float:
        """The longest time without an answer, in seconds; until the last line, which may be one about no answer."""
        times = [float(found[1]) for line in self.lines if (found := re.match(r"\[([0-9.]+)\] \d+ bytes from", line))]
        end = [float(found[1]) for line in self.lines[-1:] if (found := re.match(r"\[([0-9.]+)\] ", line))]
        return max(after - before for before, after in pairwise([*times, *end]))

    @property
    def sent(self) -> int:
        return max(int(found[1]) for line in self.lines if (found := re.search(r"icmp_seq=(\d+)", line)))

    @property
    def lost(self) -> int:
        return sum("no answer yet" in line for line in self.lines)


class Hearing(_Program):
    """ARP and RARP packets of a guest."""

    @property
    def announcements(self) -> list[str]:
        """`ARP` for a gratuitous ARP packet, `RARP` for a RARP packet."""
        packets: list[dict[str, Any]] = [json.loads(line) for line in self.lines]
        return [
            "RARP" if packet["kind"] == "8035" else "ARP"
            for packet in packets
            if packet["kind"] == "8035" or packet["sender"] == packet["target"]
        ]


def _vswitchd(node: Node) -> str:
    return (node.daemon.folder / "ovs-vswitchd.pid").read_text().strip()


def _done(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=COMMAND_SECONDS)
