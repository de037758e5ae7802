"""What a launcher and the helper's child say to each other, each in one datagram.

launcher: the call, with the descriptors of `INHERITED`; child: `ready`; launcher: GO with stdin and stderr, and from here on
the call is the child's; child: the exit code as one byte, with the output in a file; launcher: DELIVERED, when the output is written.
A child that leaves the call to the launcher says UNTOUCHED instead, before or after GO.

Both ends are programs of root's on one machine, of the same build. cni/helper/launcher.c is the other side.
"""

from __future__ import annotations

from cni.value import Value

INHERITED = ("root", "directory", "mnt", "net", "uts", "pid", "user")
"""The descriptors that come with a call."""
STANDARD = (0, 2)
"""Those that come with GO, and where they belong. stdout is not among them: the launcher writes the output."""

LARGEST = 1 << 16
"""Bytes of a call. A launcher with a larger environment executes the plugin."""

GO = b"G"
UNTOUCHED = b"N"
"""The child has done nothing for the call, and has not read stdin. Unlike the exit code it comes without a file."""
DELIVERED = b"A"
_READY = b"R"
_PID_BYTES = 4
_MASKS = frozenset(f"{mask:03o}".encode() for mask in range(0o1000))


class NotACall(ValueError):
    """The datagram is not what a launcher sends."""


class Call(Value):
    """What a launcher hands over besides descriptors."""

    build: str
    plugin: str
    umask: int
    environment: dict[str, str]


def decode(datagram: bytes) -> Call:
    """The call: build, plugin, umask and environment, each ended by a zero. Raises `NotACall`."""
    match datagram.split(b"\0"):
        case [build, plugin, mask, *variables, b""] if build and plugin and mask in _MASKS:
            pass
        case _:
            raise NotACall("the launcher's request is cut off or malformed")
    return Call(build=_text(build), plugin=_text(plugin), umask=int(mask, 8), environment=_environment(variables))


def ready(pid: int) -> bytes:
    """The child waits for GO, and an interrupt of the launcher is for process `pid`."""
    return _READY + pid.to_bytes(_PID_BYTES, "little")


def _environment(variables: list[bytes]) -> dict[str, str]:
    # As the interpreter reads its own: what has no name is dropped, and of two variables with one name the first counts.
    found: dict[str, str] = {}
    for variable in variables:
        name, equals, value = variable.partition(b"=")
        if name and equals:
            found.setdefault(_text(name), _text(value))
    return found


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")
