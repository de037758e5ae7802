"""A network namespace of a test, with one of our sockets and one of pyroute2's in it."""

from __future__ import annotations

import subprocess
import uuid
from typing import Any

from pyroute2 import NetNS

from cni.host import links
from cni.host.netlink import Link
from cni.host.netns import open_netns
from cni.host.rtnetlink import RouteSocket


class Place:
    """Call `close` at the end."""

    def __init__(self) -> None:
        self.name = f"bw-{uuid.uuid4().hex[:8]}"
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.path = f"/run/netns/{self.name}"
        self.netns = open_netns(self.path)
        self.oracle = NetNS(self.name)
        with self.netns.entered():
            self.ours = RouteSocket()

    def seen_by_oracle(self, name: str) -> Any:
        (link,) = self.oracle.get_links(ifname=name)
        return link

    def ip(self, *arguments: str) -> None:
        subprocess.run(["ip", "-n", self.name, *arguments], check=True)

    def link(self, name: str) -> Link:
        link = links.by_name(self.ours, name)
        assert link is not None, f"{self.name} has no {name}"
        return link

    def close(self) -> None:
        self.ours.close()
        self.oracle.close()
        self.netns.close()
        subprocess.run(["ip", "netns", "del", self.name], check=True)
