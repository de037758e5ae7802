"""The command line and composition root of `barewire-kubevirt`, the sidecar of the network binding plugin.

KubeVirt starts it without arguments, so each option has an environment variable, which a derived image can set.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from cni.errors import CniError
from cni.log import LEVELS, Log
from cni.version import VERSION
from kubevirt.podfiles import DEVICE_METADATA, NETWORK_INFO, PodFiles
from kubevirt.port import SOCKETS
from kubevirt.sidecar import HOOKS, Sidecar, socket_name

DEFAULT_BINDING = "vhostuser"
"""For KubeVirt versions that do not pass the name under which the plugin is registered."""


def run(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 1 with a message on stderr."""
    options = _parser().parse_args(arguments)
    log = Log({"program": "barewire-kubevirt"}, level=options.log_level)
    path = f"{options.hooks}/{socket_name(os.environ.get('CONTAINER_NAME', ''), options.binding)}"
    files = PodFiles(log, sockets=options.sockets, info=options.network_info, metadata=options.device_metadata)
    try:
        asyncio.run(_serve(options.binding, files, log, path))
    except CniError as error:
        print(f"barewire-kubevirt: {error}", file=sys.stderr)
        if error.hint:
            print(f"  what to do: {error.hint}", file=sys.stderr)
        return 1
    return 0


async def _serve(binding: str, files: PodFiles, log: Log, path: str) -> None:
    await Sidecar(binding, files, log, path=path).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="barewire-kubevirt", description="Gives KubeVirt's machines vhost-user interfaces."
    )
    parser.add_argument("--version", action="version", version=f"barewire-kubevirt {VERSION}")
    _option(parser, "--binding", "NETWORK_BINDING_PLUGIN_NAME", DEFAULT_BINDING, "name of the network binding plugin")
    _option(parser, "--hooks", "BAREWIRE_HOOKS", HOOKS, "folder of virt-launcher's hooks")
    _option(
        parser, "--sockets", "BAREWIRE_SOCKETS", SOCKETS, "folder of the vhost-user sockets, as virt-launcher sees it"
    )
    _option(parser, "--network-info", "BAREWIRE_NETWORK_INFO", NETWORK_INFO, "KubeVirt's file about the networks")
    _option(
        parser,
        "--device-metadata",
        "BAREWIRE_DEVICE_METADATA",
        DEVICE_METADATA,
        "folder of the metadata of DRA devices",
    )
    level = os.environ.get("BAREWIRE_LOG_LEVEL", "info")
    parser.add_argument("--log-level", default=level if level in LEVELS else "info", choices=LEVELS)
    return parser


def _option(parser: argparse.ArgumentParser, name: str, variable: str, default: str, what: str) -> None:
    value = os.environ.get(variable) or default
    parser.add_argument(name, default=value, help=f"{what}; by environment: {variable}; default: {default}")
