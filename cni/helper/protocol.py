"""The messages between a launcher and the helper's child, each in one datagram.

1. The launcher sends the call, with the descriptors of `INHERITED`.
2. The child sends `ready`.
3. The launcher sends GO, with stdin and stderr. From here on the call is the child's.
4. The child sends the exit code as one byte, and the output in a file.
5. The launcher sends DELIVERED when it has written the output.

A child that leaves the call to the launcher sends UNTOUCHED instead, before or after GO.

Both ends are programs of root on one machine, and of the same build. cni/helper/launcher.c is the other end.
"""

from __future__ import annotations

import os

from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

INHERITED = ("root", "directory", "mnt", "net", "uts", "pid", "user")
"""The descriptors that come with a call, in this order."""
STANDARD = (0, 2)
"""The standard descriptors that come with GO. stdout is not one of them, because the launcher writes the output."""

LARGEST = 1 << 16
"""The maximum bytes of a call. A launcher with a larger environment executes the plugin."""

GO = b"G"
UNTOUCHED = b"N"
"""The child has done nothing for the call, and has not read stdin. Unlike the exit code, this comes without a file."""
DELIVERED = b"A"
_READY = b"R"
_PID_BYTES = 4
_MASKS = frozenset(f"{mask:03o}".encode() for mask in range(0o1000))


class NotACall(ValueError):
    """The datagram is not the request of a launcher."""


class Call(Value):
    """The request of a launcher, without its descriptors."""

    build: str
    plugin: str
    umask: int
    environment: dict[str, str]


def decode(datagram: bytes) -> Call:
    """Reads a call: build, plugin, umask and environment, each ended by a NUL. Raises `NotACall`."""
    match datagram.split(b"\0"):
        case [build, plugin, mask, *variables, b""] if build and plugin and mask in _MASKS:
            pass
        case _:
            raise NotACall("the launcher's request is cut off or malformed")
    return Call(build=_text(build), plugin=_text(plugin), umask=int(mask, 8), environment=_environment(variables))


def encode(build: str, plugin: str, umask: int, environment: Mapping[str, str]) -> bytes:
    """Writes a call as a launcher sends it. No text may contain NUL."""
    variables = [f"{name}={value}" for name, value in environment.items()]
    return b"".join(os.fsencode(part) + b"\0" for part in [build, plugin, f"{umask:03o}", *variables])


def ready(pid: int) -> bytes:
    """The message that the child waits for GO, and that the launcher passes interrupts on to process `pid`."""
    return _READY + pid.to_bytes(_PID_BYTES, "little")


def _environment(variables: list[bytes]) -> dict[str, str]:
    # As the interpreter reads its own environment: entries without a name are dropped, and of two variables with the
    # same name the first one counts.
    found: dict[str, str] = {}
    for variable in variables:
        name, equals, value = variable.partition(b"=")
        if name and equals:
            found.setdefault(_text(name), _text(value))
    return found


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")
