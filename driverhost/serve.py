"""The process: devices, their drivers, and the sockets of the interface, until a signal ends it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import socket
import stat
from collections.abc import Sequence
from typing import TYPE_CHECKING

from driverhost.access import Access
from driverhost.client.connection import address_of
from driverhost.dpdk.host import DpdkHost
from driverhost.errors import DeviceUnavailable
from driverhost.finding import find
from driverhost.host import DeviceHost
from driverhost.server import Server
from driverhost.vfio.device import VfioDevice
from driverhost.vfio.place import Place

if TYPE_CHECKING:
    from cni.log import Log
    from driverhost.device import Device
    from driverhost.dpdk.process import Dpdk
    from driverhost.driver import Driver

BACKLOG = 64


def opened(address: str) -> tuple[Device, Driver]:
    """The device by VFIO, and its driver. Raises `DriverHostError`."""
    place = Place(address)
    driver = find(place.ids)
    try:
        device = VfioDevice(place)
    except OSError as error:
        raise DeviceUnavailable(
            f"{address} cannot be opened by VFIO: {os.strerror(error.errno or 0)}",
            hint="the container needs the device nodes of VFIO, and permission to open them; see also dmesg",
        ) from error
    try:
        return device, driver(device)
    except BaseException:
        device.close()
        raise


async def serve(
    addresses: Sequence[str], sockets: Sequence[str], access: Access, log: Log, dpdk: Dpdk | None = None
) -> None:
    """Serves the devices, by DPDK if it is given. Raises `DeviceUnavailable` when a socket is in use."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    hosts: dict[str, DeviceHost | DpdkHost] = {}
    server = Server(hosts, access, log)
    for address in addresses:
        if dpdk:
            hosts[address] = DpdkHost(address, dpdk, server.announce, log)
        else:
            hosts[address] = DeviceHost(address, functools.partial(opened, address), server.announce, log)
    tasks = [asyncio.create_task(host.run()) for host in hosts.values()]
    try:
        for path in sockets:
            server.listen(listening(path))
        log.info(f"serving {', '.join(addresses)} on {', '.join(sockets)}")
        await _ended(ended, tasks)
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _ended(signal_came: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Returns after a signal. A task that ends has met an error of ours, which is raised."""
    waiting = asyncio.create_task(signal_came.wait())
    done, _pending = await asyncio.wait([waiting, *tasks], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for task in done - {waiting}:
        task.result()


def listening(path: str) -> socket.socket:
    """A listening socket at the path, or with the abstract name. Raises `DeviceUnavailable`."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        if not path.startswith("@"):
            _remove_dead(path)
        listener.bind(address_of(path))
        if not path.startswith("@"):
            os.chmod(path, 0o666)  # noqa: S103 - the kernel says who connects, and `Access` decides
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        # Python itself refuses a path that is too long, and sets no number then.
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DeviceUnavailable(
            f"cannot listen on {path}: {reason}", hint="another driver host may use this name; --socket sets another"
        ) from error
    except DeviceUnavailable:
        listener.close()
        raise
    return listener


def _remove_dead(path: str) -> None:
    """Removes the socket of a process that has been killed. One that is served stays, and `bind` refuses the path.

    Raises `DeviceUnavailable` for a file of another kind: a connection to it is refused as well.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise DeviceUnavailable(f"cannot listen on {path}: it exists and is no socket", hint="set another --socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        probe.setblocking(False)  # a full queue of connections must not hold us up
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        except OSError:
            return
