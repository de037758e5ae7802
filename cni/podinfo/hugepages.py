"""Huge pages of the pod's containers, from the files of the downward API volume."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .merging import FOLDER
from .reading import PodInfoError, names, read

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cni.jsontext import JsonObject

_FILE = re.compile(r"hugepages(?:_(?P<size>1G|2M))?_(?P<what>request|limit)(?:_(?P<container>.+))?")
_KEYS = ("Request", "Limit", "Request1G", "Limit1G", "Request2M", "Limit2M")


def hugepages(folder: str = FOLDER, *, environment: Mapping[str, str] | None = None) -> JsonObject:
    """Requests and limits by container: `{"MyContainerName": ..., "Hugepages": [{"ContainerName": ..., ...}]}`.

    The numbers come from the files, in units of the pod's `divisor`: MiB if the network resources injector added them.
    0 means not reported. Raises `PodInfoError`, also if there is no such file.
    """
    containers: dict[str, dict[str, int]] = {}
    for name in names(Path(folder), prefix="hugepages_"):
        if file := _FILE.fullmatch(name):
            numbers = containers.setdefault(file["container"] or "", dict.fromkeys(_KEYS, 0))
            numbers[file["what"].capitalize() + (file["size"] or "")] = _number(Path(folder) / name)
    if not containers:
        raise PodInfoError(f"there is no file hugepages_* in {folder}")
    own = (os.environ if environment is None else environment).get("CONTAINER_NAME", "")
    listed = [{"ContainerName": name, **numbers} for name, numbers in sorted(containers.items())]
    return {"MyContainerName": own, "Hugepages": listed}


def _number(path: Path) -> int:
    content = (read(path) or "").strip()
    if not content.isascii() or not content.isdigit():
        raise PodInfoError(f"{path} does not contain a number: {content[:40]!r}")
    return int(content)
