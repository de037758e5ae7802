"""Refusals of `userspace` before it reads the node. No root."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from cni.errors import InterfaceExists
from cni.log import Log
from cni.node.node import NodeConf
from cni.protocol.request import Request, parse, parse_environment
from cni.userspace.plugin import UserspacePlugin

NETNS = "/run/netns/a"


class Untouched:
    """An adapter that must not be used."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was used")


class Reached(Exception):
    pass


class Drained(Untouched):
    def drain(self, _network: str) -> None:
        raise Reached


def plugin(removal: object) -> UserspacePlugin:
    part = cast("Any", Untouched())
    return UserspacePlugin(
        adapters=part, attachments=part, ipam=part, log=Log({}), removal=cast("Any", removal), node=NodeConf()
    )


def request(*interfaces: dict[str, Any]) -> Request:
    env = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "0123456789abcdef",
        "CNI_NETNS": NETNS,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }
    previous = {"cniVersion": "1.0.0", "interfaces": list(interfaces)}
    conf = {
        "cniVersion": "1.0.0",
        "name": "net",
        "type": "userspace",
        "host": {"engine": "ovs-dpdk"},
        "prevResult": previous,
    }
    return parse(parse_environment(env), json.dumps(conf).encode())


def test_an_interface_that_an_earlier_plugin_made_in_this_pod_keeps_its_name_for_itself() -> None:
    with pytest.raises(InterfaceExists, match="prevResult has an interface eth0"):
        plugin(Untouched()).add(request({"name": "vethab"}, {"name": "eth0", "sandbox": NETNS}))


@pytest.mark.parametrize("other", [{"name": "eth0"}, {"name": "eth1", "sandbox": NETNS}])
def test_an_interface_on_the_host_or_of_another_name_does_not_prevent_a_port(other: dict[str, Any]) -> None:
    with pytest.raises(Reached):
        plugin(Drained()).add(request(other))
