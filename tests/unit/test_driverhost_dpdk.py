"""Devices that a DPDK process drives, with a program in its place. With testpmd: tests/lab/test_driver_host.py."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from driverhost.access import Access
from driverhost.client import Refused
from driverhost.client.aio import AsyncClient
from driverhost.dpdk.host import DpdkHost
from driverhost.dpdk.process import Dpdk
from driverhost.serve import listening
from driverhost.server import Server
from tests.ovs.daemon import until
from tests.recording_log import RecordingLog

ADDRESS = "0000:02:10.0"
PROGRAM = str(Path(__file__).resolve().parents[1] / "drivers/dpdk_program.py")
SECONDS = 20.0


class Running:
    """A host with its server, and a client of it that has subscribed."""

    def __init__(self, host: DpdkHost, client: AsyncClient, log: RecordingLog) -> None:
        self.host, self.client, self.log = host, client, log

    async def states(self, number: int) -> list[str]:
        return [(await self.client.event())["state"] for _ in range(number)]

    async def logged(self, text: str) -> str:
        return await logged(self.log, text)


async def logged(log: RecordingLog, text: str) -> str:
    """The message with the text, as soon as there is one."""
    found = await asyncio.to_thread(until, text, lambda: [message for message in log.messages if text in message])
    return str(found[0])


def program(*more: str) -> tuple[str, ...]:
    return ("env", *more, sys.executable, PROGRAM)


@asynccontextmanager
async def running(folder: Path, *more: str, **settings: Any) -> AsyncIterator[Running]:
    log = RecordingLog()
    hosts: dict[str, Any] = {}
    server = Server(hosts, Access(), log)
    dpdk = Dpdk(program=program(*more), folder=str(folder / "vhost"), **settings)
    hosts[ADDRESS] = host = DpdkHost(ADDRESS, dpdk, server.announce, log)
    server.listen(listening(str(folder / "socket")))
    async with asyncio.timeout(SECONDS), await AsyncClient.connect(str(folder / "socket")) as client:
        await client.subscribe()
        task = asyncio.create_task(host.run())
        try:
            yield Running(host, client, log)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            server.close()


def children() -> list[int]:
    """The processes of DPDK: `env` replaces itself by the program."""
    pids = Path("/proc/thread-self/children").read_text().split()
    return [int(pid) for pid in pids if PROGRAM in Path(f"/proc/{pid}/cmdline").read_text()]


@pytest.mark.parametrize("has_huge_pages", [True, False])
def test_an_application_gets_the_path_of_the_socket_and_state_and_counters_of_the_device(tmp_path, has_huge_pages):
    folder = tmp_path / "vhost"

    async def test() -> None:
        async with running(tmp_path, gid=os.getgid(), has_huge_pages=has_huge_pages) as it:
            assert await it.states(1) == ["up"]
            path = await it.client.vhost_user()
            assert path == f"{folder}/{ADDRESS}.sock"
            assert stat.S_ISSOCK(os.stat(path).st_mode)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
            assert await it.client.info() == {
                "device": ADDRESS,
                "state": "up",
                "driver": "dpdk",
                "restarts": 0,
                "mac": "02:00:00:00:0d:01",
                "link": {"up": True, "speed": 1000},
                "vhost-user": path,
            }
            counters = await it.client.statistics()
            assert (counters["rx_packets"], counters["tx_bytes"], counters["rx_missed"]) == (3, 300, 1)
        assert os.listdir(folder) == []
        assert children() == []

    asyncio.run(test())


def test_rings_captures_and_other_addresses_are_refused_with_the_way_that_works(tmp_path):
    async def test() -> None:
        async with running(tmp_path) as it:
            await it.states(1)
            with pytest.raises(Refused, match="use its vhost-user socket"):
                await it.client.open()
            with pytest.raises(Refused, match="DPDK drives it"):
                await it.client.capture()
            with pytest.raises(Refused, match="DPDK drives it") as refusal:
                await it.client.set_mac("02:00:00:00:00:01")
            assert refusal.value.hint == "set it at the PF"

    asyncio.run(test())


def test_a_process_that_is_killed_is_started_again_and_applications_are_informed(tmp_path):
    async def test() -> None:
        async with running(tmp_path) as it:
            assert await it.states(1) == ["up"]
            [pid] = children()
            os.kill(pid, signal.SIGKILL)
            assert await it.states(2) == ["down", "up"]
            assert (await it.client.info())["restarts"] == 1
            assert stat.S_ISSOCK(os.stat(await it.client.vhost_user()).st_mode)

    asyncio.run(test())


def test_a_process_that_ends_at_its_start_is_reported_with_its_own_words(tmp_path):
    async def test() -> None:
        async with running(tmp_path, "FAULT=exit") as it:
            await it.logged("has ended with 1: EAL: Cannot open /dev/vfio/7: Device or resource busy")
            assert (await it.client.info())["state"] == "down"
            with pytest.raises(Refused, match="is not running"):
                await it.client.vhost_user()

    asyncio.run(test())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("hang", "is not ready within 1 s: the DPDK process does not answer"),
        ("no port", "is not ready within 1 s: 0000:02:10.0 is none of DPDK's ports"),
        ("garbage", "is not ready within 1 s: the DPDK process does not answer"),
    ],
)
def test_a_process_that_does_not_become_ready_is_ended_in_time(tmp_path, monkeypatch, fault, reason):
    monkeypatch.setattr("driverhost.dpdk.host.START_SECONDS", 1.0)

    async def test() -> None:
        async with running(tmp_path, f"FAULT={fault}") as it:
            await it.logged(reason)
            assert (await it.client.info())["state"] == "down"

    asyncio.run(test())


def test_a_process_that_hangs_later_is_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr("driverhost.dpdk.host.LOOK_SECONDS", 0.1)
    monkeypatch.setattr("driverhost.dpdk.telemetry.SECONDS", 0.2)

    async def test() -> None:
        async with running(tmp_path, "FAULT=silent") as it:
            assert await it.states(3) == ["up", "down", "up"]
            await it.logged("hangs: it has not answered 3 times")

    asyncio.run(test())


def test_a_process_that_ignores_its_end_and_leaves_another_one_behind_is_ended_in_time(tmp_path, monkeypatch):
    monkeypatch.setattr("driverhost.dpdk.process.END_SECONDS", 0.2)

    async def test() -> None:
        async with running(tmp_path, "FAULT=stubborn") as it:
            assert await it.states(1) == ["up"]
        assert children() == []

    asyncio.run(test())


def test_a_socket_that_cannot_be_given_away_is_reported_with_the_capability(tmp_path, monkeypatch):
    def refused(*_arguments: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refused)

    async def test() -> None:
        async with running(tmp_path, gid=107) as it:
            assert "capability CHOWN" in await it.logged("cannot be given to uid -1 and gid 107")

    asyncio.run(test())


def test_a_flood_of_output_is_not_kept(tmp_path):
    async def test() -> None:
        async with running(tmp_path, "FAULT=flood") as it:
            assert len(await it.logged("has ended with 1")) < 600

    asyncio.run(test())


def test_a_program_that_is_missing_is_named_with_the_option(tmp_path):
    async def test() -> None:
        log = RecordingLog()
        dpdk = Dpdk(program=(str(tmp_path / "none"),), folder=str(tmp_path))
        task = asyncio.create_task(DpdkHost(ADDRESS, dpdk, lambda _event: None, log).run())
        message = await logged(log, f"cannot be started: {tmp_path / 'none'}: No such file or directory")
        assert "--dpdk-program" in message
        task.cancel()

    asyncio.run(test())
