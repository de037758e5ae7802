"""The modules that a plugin may import on a runtime's call: light ones of the standard library, and our own.

Each name is here because its cost was measured (docs/adr/0010-what-a-call-costs.md). Add a name only with its
measurement.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

INTERPRETER = frozenset(
    "__main__ _abc _codecs _collections_abc _frozen_importlib _frozen_importlib_external _imp _io _signal _stat _thread"
    " _warnings _weakref abc builtins codecs encodings encodings.aliases encodings.utf_8 genericpath io marshal nt os"
    " os.path posix posixpath stat sys time winreg zipimport".split()
)
"""The modules that CPython imports before the first line of a program, frozen or not."""

LIGHT = frozenset("__future__ _ctypes _json _socket _struct errno fcntl gc grp select struct zlib".split())
"""Modules in C, or of a few lines. Each costs half a millisecond (_ctypes, which loads libffi) or much less."""

# ctypes replaces os.setns, which exists since Python 3.12.
STAND_INS = frozenset() if hasattr(os, "setns") else frozenset("ctypes ctypes._endian types".split())

ALLOWED = INTERPRETER | LIGHT | STAND_INS

MODELS = frozenset(
    (
        "cni.config.model_fields",
        "cni.node.conf",
        "cni.config.schema",
        "cni.sriov.conf",
        "cni.userspace.conf",
        "ipam.config.conf",
        "ipam.command.main",
    )
)
"""Our modules that import pydantic."""


def forbidden(modules: Iterable[str]) -> list[str]:
    """Those of the modules that no call of a plugin may import, sorted."""
    return sorted(name for name in modules if name not in ALLOWED and (name in MODELS or not _is_ours(name)))


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in ("cni", "ipam")
