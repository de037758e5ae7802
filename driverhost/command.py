"""The command line of `driverhost`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shlex
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from cni.log import LEVELS, Log
from cni.pci import parse
from cni.version import VERSION
from driverhost.access import Access
from driverhost.client import Client, connect
from driverhost.client.connection import DEFAULT
from driverhost.dpdk.process import Dpdk
from driverhost.errors import DeviceFailed, DeviceUnavailable, DriverHostError
from driverhost.mac import parse_unicast
from driverhost.pcap import PcapWriter
from driverhost.selftest import LISTEN_SECONDS, selftest
from driverhost.serve import serve
from driverhost.skeleton import create
from driverhost.verify import verified

DEVICE_VARIABLE = "PCIDEVICE_"
"""A device plugin names the devices of a container in variables with this prefix."""


def run(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 1 with a message on stderr."""
    options = parser().parse_args(arguments)
    try:
        options.function(options)
    except DriverHostError as error:
        print(f"driverhost: {error}", file=sys.stderr)
        if error.hint:
            print(f"  what to do: {error.hint}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"driverhost: {error.filename or 'a file'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _serve(options: argparse.Namespace) -> None:
    addresses = options.device or devices_of_container(dict(os.environ))
    if not addresses:
        raise DeviceUnavailable("no device is given", hint=f"request one, or set --device; {DEVICE_VARIABLE}* is empty")
    log = Log({"program": "driverhost"}, level=options.log_level)
    access = Access(frozenset(options.allow_uid), frozenset(options.allow_gid))
    asyncio.run(serve(addresses, options.socket or [DEFAULT], access, log, _dpdk(options)))


def _dpdk(options: argparse.Namespace) -> Dpdk | None:
    if not options.dpdk:
        return None
    return Dpdk(
        program=tuple(shlex.split(options.dpdk_program)),
        folder=options.vhost_directory,
        memory=options.dpdk_memory,
        has_huge_pages=not options.no_huge,
        uid=options.allow_uid[0] if options.allow_uid else -1,
        gid=options.allow_gid[0] if options.allow_gid else -1,
    )


def devices_of_container(environment: dict[str, str]) -> list[str]:
    """The PCI addresses that a device plugin has written into the environment. Raises `DeviceUnavailable`."""
    found: list[str] = []
    for name, value in sorted(environment.items()):
        if name.startswith(DEVICE_VARIABLE) and not name.endswith("_INFO"):
            try:
                found += [parse(address.strip()) for address in value.split(",") if address.strip()]
            except ValueError as error:
                raise DeviceUnavailable(f"{name}: {error}", hint="the device plugin sets this variable") from error
    return list(dict.fromkeys(found))


def _list(options: argparse.Namespace) -> None:
    with _client(options) as client:
        devices = client.devices()
    if options.json:
        print(json.dumps(devices, indent=2))
        return
    for device in devices:
        link = device.get("link") or {}
        speed = f"{link.get('speed', 0)} Mbit/s" if link.get("up") else "no link"
        print(device["device"], device["state"], device.get("driver", "-"), device.get("mac", "-"), speed)


def _statistics(options: argparse.Namespace) -> None:
    with _client(options) as client:
        statistics = client.statistics(options.device)
    if options.json:
        print(json.dumps(statistics, indent=2))
        return
    for name, value in statistics.items():
        print(f"{name:20} {value}")


def _capture(options: argparse.Namespace) -> None:
    # The file comes last: without a driver host, a capture of before stays.
    with _client(options) as client, client.capture(options.device) as port, _target(options.file) as target:
        writer = PcapWriter(target)
        deadline = time.monotonic() + options.seconds if options.seconds else float("inf")
        number = 0
        while time.monotonic() < deadline and number != options.count:
            port.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            for frame in port.receive(min(64, options.count - number if options.count else 64)):
                writer.write(frame, time.time())
                number += 1
            target.flush()


def _target(file: str) -> Any:
    return contextlib.nullcontext(sys.stdout.buffer) if file == "-" else open(file, "wb")


def _test(options: argparse.Namespace) -> None:
    with _client(options) as client:
        print(selftest(client, options.device, options.target, options.count, options.seconds))


def _verify(options: argparse.Namespace) -> None:
    broken = 0
    for promise, failure in verified(*options.device):
        print(f"{'broken' if failure else 'kept  '}  {promise}", flush=True)
        if failure:
            broken += 1
            print(textwrap.indent(failure.rstrip(), "        "), flush=True)
    if broken:
        raise DeviceFailed(f"{broken} promises are broken", hint="driverhost/contract.py has them")


def _create(options: argparse.Namespace) -> None:
    for path in create(options.name, options.ids, Path(options.directory)):
        print(path)


def _ids(text: str) -> tuple[int, int]:
    vendor, _, device = text.partition(":")
    if not (len(vendor) == len(device) == 4):
        raise ValueError(f"{text!r} is not a vendor and a device such as 1af4:1041")
    return int(vendor, 16), int(device, 16)


def _client(options: argparse.Namespace) -> Client:
    return connect(options.socket, seconds=options.timeout)


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="driverhost", description="Drives network devices in user space.")
    whole.add_argument("--version", action="version", version=f"driverhost {VERSION}")
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    serve = commands.add_parser("serve", help="drive devices and serve the interface")
    serve.set_defaults(function=_serve)
    serve.add_argument(
        "--device", action="append", type=_checked(parse), help=f"PCI address; default: those of {DEVICE_VARIABLE}*"
    )
    serve.add_argument("--socket", action="append", help=f"path, or @NAME for an abstract socket; default: {DEFAULT}")
    serve.add_argument("--allow-uid", action="append", type=int, default=[], help="a user who may connect")
    serve.add_argument("--allow-gid", action="append", type=int, default=[], help="a group that may connect")
    serve.add_argument(
        "--dpdk", action="store_true", help="drive the devices by DPDK, with a vhost-user socket for each"
    )
    serve.add_argument("--dpdk-program", default="dpdk-testpmd", help="the program with its first arguments")
    serve.add_argument("--dpdk-memory", type=_number, default=256, help="of each DPDK process, in MiB; default: 256")
    serve.add_argument("--no-huge", action="store_true", help="DPDK uses normal pages")
    serve.add_argument("--vhost-directory", default="/run/driverhost", help="of the vhost-user sockets, in a volume")
    serve.add_argument("--log-level", default="info", choices=LEVELS)
    _add(commands, "list", _list, "show the devices").add_argument("--json", action="store_true")
    statistics = _add(commands, "stats", _statistics, "show a device's counters")
    statistics.add_argument("--json", action="store_true")
    capture = _add(commands, "capture", _capture, "write frames in the format pcap")
    capture.add_argument("file", help="a file, or - for standard output")
    capture.add_argument("--seconds", type=float, default=0.0, help="end after this time; default: no limit")
    capture.add_argument("--count", type=_number, default=0, help="end after so many frames; default: no limit")
    test = _add(commands, "test", _test, "send frames to another driver host that runs this command, and count answers")
    test.add_argument("--target", type=_checked(parse_unicast), help="MAC address; without it, answer")
    test.add_argument("--count", type=_number, default=10, help="frames to send, or to answer")
    test.add_argument("--seconds", type=float, default=LISTEN_SECONDS, help="answer for so long; default: 30")
    verify = commands.add_parser("verify", help="test a driver on two devices in one network, which are not served")
    verify.set_defaults(function=_verify)
    verify.add_argument("device", nargs=2, type=_checked(parse), help="PCI address of a device with vfio-pci")
    creating = commands.add_parser("create-driver", help="write the package of a new driver")
    creating.set_defaults(function=_create)
    creating.add_argument("name", help="of the package")
    creating.add_argument("ids", type=_checked(_ids), help="VENDOR:DEVICE in hexadecimal digits")
    creating.add_argument("directory", nargs="?", default=".", help="default: the present one")
    for command in (statistics, capture, test):
        command.add_argument("--device", help="PCI address; not needed where there is one device")
    return whole


def _checked(parse: Any) -> Any:
    """A type of an argument, whose error is that of the function."""

    def checked(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return checked


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _add(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text)
    command.set_defaults(function=function)
    command.add_argument("--socket", default=DEFAULT, help=f"of the driver host; default: {DEFAULT}")
    command.add_argument("--timeout", type=float, default=10.0, help="seconds until the driver host must listen")
    return command
