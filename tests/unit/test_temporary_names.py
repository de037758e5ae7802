"""One module handles temporary and damaged files, so that no other one mistakes a file of another name for them."""

from __future__ import annotations

import ast
from pathlib import Path

from cni.host import folders

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "cni/host/folders.py",
    "cni/userspace/sockets/sockets.py",  # a file in a pod's directory, which is accessed only through descriptors
}


def constants(path):
    """The constants of a source with one of the endings. Most have none, and parsing them all takes a second."""
    text = path.read_text()
    nodes = ast.walk(ast.parse(text)) if any(ending in text for ending in (folders.SUFFIX, folders.DAMAGED)) else ()
    return {node.value for node in nodes if isinstance(node, ast.Constant)}


def test_only_one_module_knows_the_endings_of_temporary_and_damaged_files():
    sources = [path for top in ("cni", "deviceplugin", "ipam", "resident") for path in (ROOT / top).rglob("*.py")]
    knowing = {
        str(path.relative_to(ROOT))
        for path in sources
        if any(str(text).endswith((folders.SUFFIX, folders.DAMAGED)) for text in constants(path))
    }
    assert knowing - ALLOWED == set()
