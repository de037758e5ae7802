"""`barewire-node`: the device plugin, and commands that show its state. The composition root."""

from __future__ import annotations

import argparse
import asyncio
import functools
import os
import sys

from cni.attachment.records import STATE_DIRECTORY
from cni.errors import CniError, IoFailure, TryAgainLater
from cni.host.files import Lock
from cni.host.sysfs import Sysfs
from cni.log import LEVELS, Log
from cni.version import VERSION
from deviceplugin import holding, status
from deviceplugin.conf import PREFIX, Configuration, parse
from deviceplugin.explain import explained, table
from deviceplugin.host import Host
from deviceplugin.hostuse import HostUse
from deviceplugin.metrics import Metrics
from deviceplugin.podresources import owners
from deviceplugin.service import Service, until_signalled

_CONFIG = "/etc/pcidp/config.json"


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 1 with a message on stderr."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except (CniError, OSError) as error:
        print(f"barewire-node: {error}", file=sys.stderr)
        if hint := getattr(error, "hint", ""):
            print(f"  what to do: {hint}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="barewire-node", description="Offers the node's PCI devices to the kubelet.")
    parser.add_argument("--version", action="version", version=f"barewire-node {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config-file", default=_CONFIG, metavar="FILE", help=f"default: {_CONFIG}")
    common.add_argument("--resource-prefix", default=PREFIX, metavar="DOMAIN", help=f"default: {PREFIX}")
    common.add_argument("--state", default=holding.FOLDER, metavar="DIR", help=f"default: {holding.FOLDER}")
    common.add_argument("--log-level", default="info", choices=LEVELS)
    common.add_argument("--sysfs", default="/sys", help=argparse.SUPPRESS)
    common.add_argument("--dev", default="/dev", help=argparse.SUPPRESS)
    run = commands.add_parser("run", parents=[common], help="serve until a signal ends it")
    run.add_argument("--kubelet-root", default="/var/lib/kubelet", metavar="DIR")
    run.add_argument("--plugins-registry", action="store_true", help="let the kubelet find the sockets itself")
    run.add_argument("--metrics-port", type=int, default=0, metavar="PORT", help="default: none")
    run.add_argument("--metrics-address", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1")
    run.add_argument("--dry-run", action="store_true", help="tell which resources would be served, and change nothing")
    run.add_argument("--json", action="store_true", help="with --dry-run")
    run.set_defaults(command=_run)
    state = commands.add_parser("status", parents=[common], help="tell of each resource and who has its devices")
    state.add_argument("--kubelet-root", default="/var/lib/kubelet", metavar="DIR")
    state.add_argument("--json", action="store_true")
    state.set_defaults(command=_status)
    told = commands.add_parser(
        "explain", parents=[common], help="tell of each device in which pool it is, or why in none"
    )
    told.add_argument("addresses", nargs="*", metavar="ADDRESS")
    told.add_argument("--json", action="store_true")
    told.set_defaults(command=_explain)
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.dry_run:
        return _try(options)
    # Two processes would undo each other's work on the same devices. During a rolling update the old process may still
    # finish calls.
    with Lock(f"{options.state.rstrip('/')}.lock", "the journal of devices"):
        return _serve(options)


def _serve(options: argparse.Namespace) -> int:
    log = _log(options)
    metrics = Metrics()
    service = Service(
        _host(options, log),
        holding.Journal(options.state, log.error),
        log,
        metrics,
        config=options.config_file,
        prefix=options.resource_prefix,
        kubelet_root=options.kubelet_root,
        registry=options.plugins_registry,
    )
    if options.metrics_port:
        metrics.serve(options.metrics_port, options.metrics_address)
    asyncio.run(until_signalled(service))
    return 0


def _explain(options: argparse.Namespace) -> int:
    log = _log(options)
    rows = explained(_host(options, log).look(), _configuration(options), _held(options, log), options.addresses)
    print(table(rows, as_json=options.json))
    return 0


def _status(options: argparse.Namespace) -> int:
    """The exit code is 1 if a resource is not served."""
    log = _log(options)
    try:
        pods = asyncio.run(owners(f"{options.kubelet_root}/pod-resources/kubelet.sock"))
    except TryAgainLater as error:
        log.warning(str(error))
        pods = None
    is_served = functools.partial(status.answers, f"{options.kubelet_root}/device-plugins")
    configuration, held = _configuration(options), _held(options, log)
    found = status.status(_host(options, log).look(), configuration, held, is_served=is_served, owners=pods)
    print(status.text(found, as_json=options.json))
    return 0 if found.is_served else 1


def _try(options: argparse.Namespace) -> int:
    log = _log(options)
    found = status.status(_host(options, log).look(), _configuration(options), _held(options, log))
    print(status.text(found, as_json=options.json))
    return 0


def _configuration(options: argparse.Namespace) -> Configuration:
    with open(options.config_file, "rb") as file:
        return parse(file.read(), options.resource_prefix)


def _held(options: argparse.Namespace, log: Log) -> dict[str, holding.Holding]:
    # A command changes nothing, and `load` creates the directory.
    return holding.Journal(options.state, log.error).load() if os.path.lexists(options.state) else {}


def _host(options: argparse.Namespace, log: Log) -> Host:
    sysfs = Sysfs(options.sysfs)
    return Host(sysfs, dev=options.dev, uses=HostUse(sysfs, log, dev=options.dev), has_record=_has_record)


def _has_record(device: str) -> bool:
    # `cni.attachment.records` links the owner of a device here. The check must work even if its state is damaged.
    path = f"{STATE_DIRECTORY}/.devices/{device}"
    try:
        os.lstat(path)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise IoFailure(f"cannot look at {path}: {os.strerror(error.errno or 0)}") from error
    return True


def _log(options: argparse.Namespace) -> Log:
    return Log({"program": "barewire-node"}, level=options.log_level)


if __name__ == "__main__":
    sys.exit(main())
