"""Runs in the lab's machine: frames per second from one device to another. Prints a JSON object of the results.

Arguments: two VFs and two virtio devices with vfio-pci, the directory for sockets, then the command line of testpmd.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from driverhost.client import Client, connect
from driverhost.dpdk import telemetry
from driverhost.errors import DriverHostError

SECONDS = 8.0
START_SECONDS = 90.0
SIZE = 60
LEASH = ("sh", "-c", 'tail -f /dev/null | "$@"', "leash")
EAL = ("--no-huge", "--no-shconf", "-m", "64", "--lcores", "0@0,1@1")
BUFFERS = "--total-num-mbufs=2048"


def main() -> None:
    one, other, first, second, folder, *testpmd = sys.argv[1:]
    rates = {
        "igbvf, by the interface": by_interface(one, other),
        "virtio-net, by the interface": by_interface(first, second),
        "testpmd on the VF": direct(one, other, testpmd),
        "testpmd of the driver host, by vhost-user": by_vhost_user(one, other, folder, testpmd),
    }
    print(json.dumps(rates))


@contextlib.contextmanager
def served(address: str, *options: str) -> Iterator[Client]:
    command = [sys.executable, "-m", "driverhost", "serve", "--device", address, "--socket", f"@{address}", *options]
    process = subprocess.Popen(command)
    try:
        with connect(f"@{address}", START_SECONDS) as client:
            client.subscribe()
            deadline = time.monotonic() + START_SECONDS
            while client.info()["state"] != "up":
                assert time.monotonic() < deadline, f"{address} does not start"
                client.event(1.0)
            yield client
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def mac(client: Client) -> bytes:
    return bytes.fromhex(client.info()["mac"].replace(":", ""))


def by_interface(one: str, other: str) -> float:
    with served(one) as sender, served(other) as receiver, sender.open(slots=1024) as port:
        frame = mac(receiver) + mac(sender) + b"\x88\xb5" + bytes(SIZE - 14)
        with receiver.open(slots=4096) as sink:
            received, deadline = 0, time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                port.send([frame] * 256)
                received += len(sink.receive(4096))
                if not received:
                    sink.wait(0.01)
                port.receive()
            return received / SECONDS


@contextlib.contextmanager
def running(testpmd: list[str], *options: str) -> Iterator[str]:
    """A testpmd; yields the path of its telemetry socket."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "RUNTIME_DIRECTORY": folder}
        process = subprocess.Popen(
            [*LEASH, *testpmd, *EAL, *options, BUFFERS],
            env=environment,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield f"{folder}/dpdk/rte/dpdk_telemetry.v2"
        finally:
            os.killpg(process.pid, 9)
            process.wait(START_SECONDS)


def counted(path: str) -> float:
    """Frames per second that the port 0 of a testpmd receives, once there are some."""

    def received() -> int:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                [answer] = telemetry.ask(path, "/ethdev/stats,0")
                return int(answer["ipackets"])
            except DriverHostError:
                assert time.monotonic() < deadline, "testpmd does not start"
                time.sleep(0.2)

    deadline = time.monotonic() + START_SECONDS
    while not (first := received()):
        assert time.monotonic() < deadline, "no frames arrive"
        time.sleep(0.2)
    time.sleep(SECONDS)
    return (received() - first) / SECONDS


def sending(peer: str) -> tuple[str, ...]:
    return ("--", "--forward-mode=txonly", "--auto-start", f"--txpkts={SIZE}", f"--eth-peer=0,{peer}")


def direct(one: str, other: str, testpmd: list[str]) -> float:
    with served(other) as receiver:
        peer = receiver.info()["mac"]
    sink = ("--", "--forward-mode=rxonly", "--auto-start")
    with running(testpmd, "-a", other, *sink) as path, running(testpmd, "-a", one, *sending(peer)):
        return counted(path)


def by_vhost_user(one: str, other: str, folder: str, testpmd: list[str]) -> float:
    options = ("--dpdk", "--no-huge", "--dpdk-memory", "64", "--vhost-directory", folder)
    with served(other) as receiver:
        peer = receiver.info()["mac"]
    sink = ("--", "--forward-mode=rxonly", "--auto-start")
    with (
        running(testpmd, "-a", other, *sink) as path,
        served(one, *options, "--dpdk-program", " ".join(testpmd)) as host,
    ):
        info: dict[str, Any] = host.info()
        vdev = f"net_virtio_user0,path={info['vhost-user']},mac={info['mac']}"
        with running(testpmd, "--no-pci", "--vdev", vdev, *sending(peer)):
            return counted(path)


if __name__ == "__main__":
    main()
