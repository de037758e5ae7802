"""The files of conf-examples/, in the form in which a runtime or a cluster uses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

EXAMPLES = Path(__file__).parents[1] / "conf-examples"


def manifest(path: Path) -> dict[str, Any]:
    """The object in a YAML file."""
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


def network(path: Path) -> dict[str, Any]:
    """The configuration list of an example: a single configuration becomes a list of one, as in libcni."""
    document: dict[str, Any] = json.loads(_config(path) or "{}")
    if "plugins" in document:
        return document
    return {"cniVersion": document["cniVersion"], "name": document["name"], "plugins": [document]}


def of_plugin(name: str) -> list[Path]:
    """The examples whose first plugin has that name, except those with a cluster."""
    found = [path for path in _networks() if network(path)["plugins"][0]["type"] == name]
    return [path for path in found if path not in of_cluster()]


def of_cluster() -> list[Path]:
    """The examples whose addresses are kept in a cluster's store."""
    return [path for path in _networks() if network(path)["plugins"][0].get("ipam", {}).get("backend")]


def _networks() -> list[Path]:
    return [path for path in sorted(EXAMPLES.iterdir()) if _config(path)]


def _config(path: Path) -> str:
    """The text of a network's configuration; empty for files without a network."""
    if path.suffix in (".conf", ".conflist"):
        return path.read_text()
    if path.suffix != ".yaml":
        return ""
    found = manifest(path)
    return found["spec"]["config"] if found["kind"] == "NetworkAttachmentDefinition" else ""
