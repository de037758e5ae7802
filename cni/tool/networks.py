"""The networks in this node's files: CNI configurations, single or in lists."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from cni.errors import InvalidConfig, IoFailure
from cni.host.folders import entries
from cni.names import is_identifier
from cni.protocol.request import Request, without_call

if TYPE_CHECKING:
    from collections.abc import Iterable

SUFFIXES = (".conf", ".conflist", ".json")


def configured(folders: Iterable[str], named: Iterable[str]) -> list[Request]:
    """The plugins' configurations in the files of the folders, and in the named files, each as STATUS would get it.

    Other files in the folders are skipped. Raises `InvalidConfig` and `IoFailure` for named files.
    """
    found = []
    for path in _paths(folders):
        try:
            found += _requests(path)
        except (InvalidConfig, IoFailure):
            continue  # Multus and other programs store other files there.
    for path in named:
        found += _requests(os.path.abspath(path))
    return found


def _paths(folders: Iterable[str]) -> list[str]:
    return sorted(f"{folder}/{name}" for folder in folders for name in entries(folder) if name.endswith(SUFFIXES))


def _requests(path: str) -> list[Request]:
    try:
        with open(path, "rb") as file:
            document = json.load(file)
    except OSError as error:
        raise IoFailure(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise InvalidConfig(
            f"{path}: {error}", hint="the file must contain the JSON of a network, or of a list of plugins"
        ) from error
    plugins = document.get("plugins", [document]) if isinstance(document, dict) else None
    if not isinstance(plugins, list) or not is_identifier(document.get("name")):
        raise InvalidConfig(
            f"{path} is not a network configuration", hint="a network configuration has a name, and a type or plugins"
        )
    confs = [{**conf, "name": document["name"]} for conf in plugins if isinstance(conf, dict)]
    return [without_call(conf, "STATUS", "1.1.0") for conf in confs]
