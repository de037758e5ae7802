"""Shared parts of the tests of the `sriov` plugin: configurations, and views of a VF from outside the product."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.lab.lab import Lab
from tests.lab.snapshot import Tree, difference, host_snapshot
from tests.lab.topology import Vf, pfs


def conf(vf: Vf, **settings: Any) -> dict[str, Any]:
    """A configuration for that VF."""
    return {"cniVersion": "1.0.0", "name": "net", "type": "sriov", "deviceID": vf.address, **settings}


def seen_from_pf(lab: Lab, vf: Vf) -> dict[str, Any]:
    """The VF's settings at its PF, as `ip` reports them."""
    (pf,) = json.loads(lab.vm.run("ip", "-d", "-j", "link", "show", lab.pf.netdev).out)
    found: dict[str, Any] = next(info for info in pf["vfinfo_list"] if info["vf"] == vf.index)
    return found


def netdev(lab: Lab, vf: Vf) -> str | None:
    """The VF's current name on the host, or None."""
    return next(one.netdev for one in pfs(lab.vm)[0].vfs if one.address == vf.address)


def changes(lab: Lab, before: Tree | None = None) -> list[str]:
    """The differences from the state before the test (or from `before`), except that pods exist."""
    start = lab.before if before is None else before
    return [line for line in difference(start, host_snapshot(lab.vm)) if not line.startswith("netns.")]


def wait_for(condition: Callable[[], object], what: str, seconds: float = 15) -> None:
    """Waits for a state in the guest that sends no event to the outside."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.05)


@contextmanager
def udev(lab: Lab) -> Iterator[None]:
    """Runs systemd-udevd with Debian's rules, which rename network devices, until the end of the context."""
    if _was_renamed(lab):
        lab.start_over()
    daemon = lab.vm.start("/lib/systemd/systemd-udevd")
    try:
        wait_for(lambda: lab.vm.run("test", "-e", "/run/udev/control", check=False).rc == 0, "the start of udevd")
        _have_all_looked_at(lab)
        assert _renamed(lab)
        yield
    finally:
        daemon.kill()


def _renamed(lab: Lab) -> bool:
    return all((vf.netdev or "").startswith("enp") for pf in pfs(lab.vm) for vf in pf.vfs)


def _was_renamed(lab: Lab) -> bool:
    """Whether a link was renamed before: udev keeps such a name (policy `keep`), and sets its own name as an
    alternative. The kernel marks a rename, but not a move that changes the name.
    """
    renamed = "4"  # NET_NAME_RENAMED of linux/netdevice.h
    return renamed in lab.vm.sh("cat /sys/class/net/*/name_assign_type").out.split()


def _have_all_looked_at(lab: Lab) -> None:
    lab.vm.run("udevadm", "trigger", "--action=add", "--subsystem-match=net")
    # `udevadm settle` alone can return before the first event has arrived; udev's files about the devices show its end.
    seen = 'for link in /sys/class/net/*; do test -e "/run/udev/data/n$(cat $link/ifindex)" || exit 1; done'
    wait_for(lambda: lab.vm.sh(seen, check=False).rc == 0, "udev's look at every device")
    lab.vm.run("udevadm", "settle", "--timeout=60", timeout=90)
