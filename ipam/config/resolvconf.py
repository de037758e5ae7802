"""Parses a name service configuration in the form of resolv.conf, as host-local does."""

from __future__ import annotations

from cni.protocol.result import Dns

LARGEST = 1 << 16
"""Bytes. The C library reads only the first few lines."""

_COMMENTS = (b"#", b";")


def parse(content: bytes) -> Dns:
    """Parses the content of such a file."""
    servers: list[str] = []
    lists: dict[str, list[str]] = {"search": [], "options": []}
    domain = ""
    for line in content.splitlines():
        word, *rest = line.split() or [b""]
        texts = [word.decode(errors="replace") for word in rest]
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
