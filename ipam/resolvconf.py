"""Name service from a file in the form of resolv.conf, as host-local reads it."""

from __future__ import annotations

import os
import stat

from cni.errors import InvalidConfig
from cni.result import Dns

LARGEST = 1 << 16
"""Bytes. The C library reads the first few lines."""

_COMMENTS = (b"#", b";")


def read(path: str) -> Dns:
    """What the file says. Raises `InvalidConfig` when it cannot be read."""
    servers: list[str] = []
    lists: dict[str, list[str]] = {"search": [], "options": []}
    domain = ""
    for line in _content(path).splitlines():
        word, *rest = line.split() or [b""]
        texts = [one.decode(errors="replace") for one in rest]
        if not texts or word.startswith(_COMMENTS):
            continue
        key = word.decode(errors="replace")
        if key == "nameserver":
            servers.append(texts[0])
        elif key == "domain":
            domain = texts[0]
        elif key in lists:
            lists[key] += texts
    return Dns(
        nameservers=tuple(servers), domain=domain, search=tuple(lists["search"]), options=tuple(lists["options"])
    )


def _content(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise InvalidConfig(f"ipam.resolvConf: cannot read {path}: {os.strerror(error.errno or 0)}") from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidConfig(f"ipam.resolvConf: {path} is not a file")
        return os.read(fd, LARGEST)
    except OSError as error:
        raise InvalidConfig(f"ipam.resolvConf: cannot read {path}: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(fd)
