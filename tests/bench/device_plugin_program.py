"""A device plugin on a simulated host, for `tests.bench.device_plugin`. Each line of stdin is an event of the kernel.

Arguments: the host's folder, the configuration, the kubelet's folder, the journal's folder.
"""

from __future__ import annotations

import asyncio
import os
import sys

from cni.host.sysfs import Sysfs
from cni.log import Log
from deviceplugin.holding import Journal
from deviceplugin.host import Host
from deviceplugin.metrics import Metrics
from deviceplugin.service import Service


async def main(root: str, config: str, kubelet: str, state: str) -> None:
    """Serves until stdin ends."""
    host = Host(Sysfs(f"{root}/sys"), dev=f"{root}/dev", device_info=f"{root}/devinfo", uses=lambda _inventory: {})
    log = Log({}, level="warning")
    service = Service(host, Journal(state), log, Metrics(), config=config, prefix="intel.com", kubelet_root=kubelet)
    work = asyncio.ensure_future(service.run())

    def read() -> None:
        event = os.read(0, 1 << 16)
        service.event.ring(event) if event else work.cancel()

    asyncio.get_running_loop().add_reader(0, read)
    await asyncio.wait([work])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
