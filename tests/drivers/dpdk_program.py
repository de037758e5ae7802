"""A program that stands for dpdk-testpmd: the options that the driver host uses, a vhost-user socket, and telemetry.

It refuses what testpmd refuses: fewer than two logical cores, no device, a folder of the socket that does not exist. As
testpmd, it ends when its input ends. `FAULT` selects a misbehaviour.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time

FAULT = os.environ.get("FAULT", "")
MAC = "02:00:00:00:0D:01"


def answers(device: str, started: float) -> dict[str, object]:
    return {
        "/ethdev/list": [0, 1],
        "/ethdev/info,0": {"name": "net_vhost0", "mac_addr": "56:48:4F:53:54:00"},
        "/ethdev/info,1": {"name": "another" if FAULT == "no port" else device, "mac_addr": MAC},
        "/ethdev/link_status,1": {"status": "UP", "speed": 1000, "duplex": "full-duplex"},
        "/ethdev/stats,1": {"ipackets": 3, "opackets": 5, "ibytes": 180, "obytes": 300, "imissed": 1},
        "age": time.monotonic() - started,
    }


def serve(listener: socket.socket, device: str) -> None:
    started = time.monotonic()
    while True:
        connection, _address = listener.accept()
        with connection:
            connection.send(json.dumps({"version": "fake", "pid": os.getpid(), "max_output_len": 16384}).encode())
            while command := connection.recv(1024).decode():
                if FAULT == "silent" and command.startswith("/ethdev/stats") and time.monotonic() - started > 0.1:
                    time.sleep(3600)
                answer = "x" if FAULT == "garbage" else {command.partition(",")[0]: answers(device, started)[command]}
                connection.send(json.dumps(answer).encode())


def main() -> None:
    eal, _, _own = "\n".join(sys.argv[1:]).partition("\n--\n")
    parser = argparse.ArgumentParser()
    for option in ("--lcores", "-a", "--vdev", "-m"):
        parser.add_argument(option, required=True)
    for option in ("--in-memory", "--no-huge", "--no-shconf"):
        parser.add_argument(option, action="store_true")
    options = parser.parse_args(eal.split("\n"))
    if options.in_memory and options.no_huge:
        sys.exit("EAL: Option --legacy-mem is not compatible with --in-memory")
    if len(options.lcores.split(",")) < 2:
        sys.exit("EAL: Error - exiting with code: 1: No forwarding cores")
    if FAULT == "exit":
        print("EAL: Cannot open /dev/vfio/7: Device or resource busy", flush=True)
        sys.exit(1)
    if FAULT == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if not os.fork():
            time.sleep(3600)
    if FAULT == "flood":
        for _ in range(200):
            sys.stdout.write("x" * 100_000)
        sys.exit(1)
    kind, path = options.vdev.split(",")[:2]
    assert kind == "net_vhost0"
    vhost = socket.socket(socket.AF_UNIX)
    vhost.bind(path.removeprefix("iface="))
    folder = f"{os.environ['RUNTIME_DIRECTORY']}/dpdk/rte"
    os.makedirs(folder)
    if FAULT != "hang":
        telemetry = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        telemetry.bind(f"{folder}/dpdk_telemetry.v2")
        telemetry.listen()
        threading.Thread(target=serve, args=(telemetry, options.a), daemon=True).start()
    sys.stdin.read(1)


if __name__ == "__main__":
    main()
