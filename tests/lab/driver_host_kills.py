"""Runs in the lab's machine: kills a driver host under traffic, and prints what its application noticed, as JSON.

Arguments: the number of kills, and the addresses of two VFs that have the driver vfio-pci.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from typing import Any

from driverhost.client import ApplicationPort, Client, Disconnected, connect

SECONDS = 60.0
ETHERTYPE = b"\x88\xb5"


class Served:
    """A driver host, and an application of it that has its port open."""

    def __init__(self, address: str, name: str) -> None:
        self._arguments = [sys.executable, "-m", "driverhost", "serve", "--device", address, "--socket", name]
        self._name = name
        self.client: Client
        self.port: ApplicationPort
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._arguments)
        self.client = connect(self._name, SECONDS)
        self.client.subscribe()
        deadline = time.monotonic() + SECONDS
        # The driver starts beside the interface.
        while self.client.info()["state"] != "up":
            assert time.monotonic() < deadline, "the driver does not start"
            self.client.event(1.0)
        self.port = self.client.open()
        self.mac = bytes.fromhex(self.client.info()["mac"].replace(":", ""))

    def kill(self) -> float:
        """Kills the host, and returns the seconds until its application knew."""
        self.process.kill()
        killed = time.monotonic()
        try:
            while self.port.wait(SECONDS):
                self.port.receive()
        except Disconnected:
            known = time.monotonic()
        self.process.wait()
        self.port.close()
        self.client.close()
        return known - killed


def exchanged(sender: Served, receiver: Served, seconds: float) -> int:
    """The number of frames that have arrived within the time, at least one within `SECONDS`."""
    number = 0
    begun = time.monotonic()
    frame = receiver.mac + sender.mac + ETHERTYPE + bytes(100)
    while time.monotonic() < begun + (seconds if number else SECONDS):
        sender.port.send([frame] * 16)
        receiver.port.wait(0.02)
        number += sum(each == frame for each in receiver.port.receive())
    return number


def main() -> None:
    kills, one, other = int(sys.argv[1]), *sys.argv[2:4]
    seen: dict[str, Any] = {"noticed": [], "frames": []}
    first, second = Served(one, "@first"), Served(other, "@second")
    try:
        for _ in range(kills):
            seen["frames"].append(exchanged(first, second, random.uniform(0, 0.5)))
            seen["noticed"].append(first.kill())
            first.start()
            # The test shows it when the program does not come to its end.
            print(seen, file=sys.stderr, flush=True)
        seen["frames"].append(exchanged(first, second, 0.0))
        seen["the other host"] = [second.process.poll(), second.client.info()["restarts"]]
    finally:
        for served in (first, second):
            served.process.terminate()
            served.process.wait(SECONDS)
    seen["exit codes"] = [first.process.returncode, second.process.returncode]
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
