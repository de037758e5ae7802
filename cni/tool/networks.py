"""The networks that this node's files tell of: CNI configurations, single or in lists."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from cni.errors import InvalidConfig, IoFailure
from cni.names import is_identifier
from cni.protocol.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterable

SUFFIXES = (".conf", ".conflist", ".json")


def configured(folders: Iterable[str], named: Iterable[str]) -> list[Request]:
    """The plugins' configurations in the files of the folders, and in the named files, each as STATUS would get it.

    What is no configuration is passed over in the folders. Raises `InvalidConfig` and `IoFailure` for named files.
    """
    found = []
    for path in _paths(folders):
        try:
            found += _requests(path)
        except (InvalidConfig, IoFailure):
            continue  # Multus, and others, keep files of other kinds there.
    for path in named:
        found += _requests(os.path.abspath(path))
    return found


def _paths(folders: Iterable[str]) -> list[str]:
    return sorted(
        f"{folder}/{name}"
        for folder in folders
        if os.path.isdir(folder)
        for name in os.listdir(folder)
        if name.endswith(SUFFIXES)
    )


def _requests(path: str) -> list[Request]:
    try:
        with open(path, "rb") as file:
            document = json.load(file)
    except OSError as error:
        raise IoFailure(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidConfig(f"{path}: {error}", hint="it is the JSON of a network, or of a list of plugins") from error
    plugins = document.get("plugins", [document]) if isinstance(document, dict) else None
    if not isinstance(plugins, list) or not is_identifier(document.get("name")):
        raise InvalidConfig(f"{path} is no network configuration", hint="it has a name, and a type or plugins")
    return [_request({**one, "name": document["name"]}) for one in plugins if isinstance(one, dict)]


def _request(conf: dict[str, Any]) -> Request:
    return Request(
        command="STATUS",
        container_id="",
        netns="",
        ifname="",
        args="",
        path=(),
        env={},
        network=conf["name"],
        cni_version="1.1.0",
        config=conf,
        stdin=b"",
    )
