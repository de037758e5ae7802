"""The resident process: all parts run in one event loop."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING

from cni.errors import CniError, InvalidConfig, IoFailure
from cni.host.files import read_file
from deviceplugin.conf import Configuration, parse
from deviceplugin.following import Follower
from deviceplugin.kubelet import Kubelet
from deviceplugin.podresources import PodResources
from deviceplugin.reclaim import PAUSE_SECONDS, SETTLE_SECONDS, Reclaimer, resume
from deviceplugin.stock import Stock
from deviceplugin.watching import Bell, FolderEvents

if TYPE_CHECKING:
    from cni.log import Log
    from deviceplugin.holding import Journal
    from deviceplugin.host import Host
    from deviceplugin.metrics import Metrics

_FILE_SECONDS = 10.0
"""Interval of checks of the file without an event."""


class Service:
    """`config` is the path of the configuration, `kubelet_root` the kubelet's root folder."""

    def __init__(  # noqa: PLR0913 - the options of the command line
        self,
        host: Host,
        journal: Journal,
        log: Log,
        metrics: Metrics,
        *,
        config: str,
        prefix: str,
        kubelet_root: str,
        registry: bool = False,
        settle: float = SETTLE_SECONDS,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        self._log = log
        self._config = config
        self._prefix = prefix
        self._seen: bytes | None = None
        self._file = Bell()
        journal.sweep()
        self.stock = Stock(host, journal, self.read(), log)
        self._follower = Follower(self.stock, log)
        self.event = self._follower.bell
        self.kubelet = Kubelet(kubelet_root, self.stock, log, metrics, registry=registry)
        pods = PodResources(f"{kubelet_root}/pod-resources/kubelet.sock")
        self._reclaimer = Reclaimer(self.stock, pods, log, settle=settle, pause=pause)
        metrics.watch(self.stock)

    def read(self) -> Configuration:
        """The configuration. Raises `IoFailure` and `InvalidConfig`."""
        self._seen = content = _content(self._config)
        configuration = parse(content, self._prefix)
        for warning in configuration.warnings:
            self._log.warning(f"{self._config}: {warning}")
        return configuration

    async def run(self) -> None:
        """Serves until it is cancelled."""
        with FolderEvents([os.path.dirname(self._config)], self._file, self._log.warning), self._follower:
            await self._follower.begin()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._resume())
                for part in (self.kubelet.run(), self._follower.run(), self._watch_file(), self._reclaimer.run()):
                    group.create_task(part)

    async def _resume(self) -> None:
        await resume(self.stock, self._log)
        try:
            await self.stock.publish_all()
        except CniError as error:
            self._log.error(f"CDI files are not as they should be, tried again: {error}")

    async def _watch_file(self) -> None:
        """Applies a changed file. The file of a ConfigMap changes by a link in its folder, so the folder is watched."""
        told = ""
        while True:
            await self._file.wait(_FILE_SECONDS)
            if _present(self._config) == self._seen:
                continue
            try:
                configuration = self.read()
            except (InvalidConfig, IoFailure) as error:
                if str(error) != told:
                    self._log.error(f"{self._config} is not taken, the last good one stays: {error}")
                told = str(error)
            else:
                told = ""
                self._log.info(f"{self._config} has changed, and is taken")
                self.stock.configure(configuration)


async def until_signalled(service: Service) -> None:
    """Runs the service until SIGTERM or SIGINT."""
    work = asyncio.ensure_future(service.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    await asyncio.wait([work])
    if not work.cancelled():
        work.result()


def _content(path: str) -> bytes:
    # The file of a ConfigMap is a link to a link, which `read_file` does not follow.
    content = read_file(os.path.realpath(path))
    if content is None:
        raise IoFailure(f"{path} does not exist", hint="it is sriov-network-device-plugin's config.json")
    return content


def _present(path: str) -> bytes | None:
    try:
        return _content(path)
    except CniError:
        return None
