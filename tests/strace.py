"""The points at which a call changes something, according to strace, where a fault can be injected.

The tests rely on these facts, measured with strace 6.1 and `inject=...:when=n`:

- n counts the calls of one system call of one process (thread), from its start, whatever their outcome; a child starts
  at 1 again. Without `-f` only the plugin itself is traced: programs that it starts (host-local) meet no fault, and do
  not change the numbers.
- `signal=KILL` ends the process before the call is executed, `error=` replaces the call, and `signal=STOP` stops the
  process after the call.
- The numbers are the same from run to run as long as the state directories already exist. Only the messages after the
  addresses were set (announcements) come later by the number of polls of the link's carrier. So each fault is
  afterwards compared with its intended point (`Missed`). Seen once: an ADD with fewer `openat` than the ADD that was
  counted, probably because its other thread had opened a library.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pyroute2.netlink.rtnl.marshal import MarshalRtnl

CHANGING = frozenset(
    "chmod fchmod fchmodat fchown fdatasync fsetxattr fsync ftruncate link linkat mkdir mkdirat mount_setattr move_mount "
    "open_tree rename renameat renameat2 rmdir setns setxattr symlink symlinkat umount2 unlink unlinkat".split()
)
"""System calls that change something, whatever their arguments."""

LOOKED_AT = sorted({*CHANGING, *"openat pwrite64 sendmsg sendto write".split()})
STDERR = "2<"

_CALL = re.compile(r"(\w+)\((.*)")
_MESSAGE = re.compile(r'nlmsg_type=(\w+).*?nlmsg_flags=(\S+), .*?\}, "((?:\\x[0-9a-f]{2})*)"')
_PATH = re.compile(r'"([^"]*)"')
_DESCRIPTOR = re.compile(r"\d+<([^>]*)>")
_GET, _EACH = 2, 4  # linux/rtnetlink.h numbers the messages in fours: RTM_NEW*, RTM_DEL*, RTM_GET*, RTM_SET*


class Missed(AssertionError):
    """The fault met a system call other than the point's, or none."""


@dataclass(frozen=True)
class Point:
    """The n-th call of a system call in a process, and its purpose."""

    syscall: str
    number: int
    what: str

    def __str__(self) -> str:
        return f"{self.syscall} {self.number} ({self.what})"


def command(trace: str, traced: str, fault: str = "") -> tuple[str, ...]:
    """The command that is put before a program: strace, which writes to `trace` and injects `fault`, if any."""
    inject = ("-e", f"inject={fault}") if fault else ()
    return ("strace", "-y", "-s", "1000", "-o", trace, "-e", f"trace={traced}", *inject)


def killed(point: Point) -> str:
    """The fault that ends the process before the point."""
    return f"{point.syscall}:signal=KILL:when={point.number}"


def refused(point: Point, error: str) -> str:
    """The fault that makes the point's call fail with an error such as EIO."""
    return f"{point.syscall}:error={error}:when={point.number}"


def stopped(point: Point) -> str:
    """The fault that stops the process after the point."""
    return f"{point.syscall}:signal=STOP:when={point.number}"


def require_hit(trace: list[str], point: Point) -> None:
    """Raises `Missed` if the call of that number was not the point's."""
    calls = [call for call in map(_CALL.match, trace) if call and call[1] == point.syscall]
    found = described(point.syscall, calls[point.number - 1][2]) if len(calls) >= point.number else "nothing"
    if found != point.what:
        raise Missed(f"{point.syscall} {point.number} was {found}, not {point.what}")


def points(trace: list[str]) -> list[Point]:
    """The changing calls in strace's lines about one process. Numbers count all calls, including those that change
    nothing.
    """
    numbers: dict[str, int] = {}
    found = []
    for call in filter(None, map(_CALL.match, trace)):
        syscall, arguments = call.groups()
        numbers[syscall] = numbers.get(syscall, 0) + 1
        if is_change(syscall, arguments):
            found.append(Point(syscall, numbers[syscall], described(syscall, arguments)))
    return found


def is_change(syscall: str, arguments: str) -> bool:
    """Whether that call, with its arguments as strace shows them, changes something."""
    if syscall in CHANGING:
        return True
    if syscall in {"write", "pwrite64"}:
        return not arguments.startswith(STDERR)
    if syscall == "openat":
        return "O_CREAT" in arguments
    message = _MESSAGE.search(arguments)
    return message is None or int(message[1], 0) % _EACH != _GET


def described(syscall: str, arguments: str) -> str:
    """The purpose of a call, without numbers that differ from run to run."""
    if syscall in {"sendto", "sendmsg"}:
        return _message(arguments)
    paths = [] if syscall == "setns" else _PATH.findall(arguments.partition(" = ")[0])
    descriptor = _DESCRIPTOR.match(arguments)
    name = descriptor[1] if descriptor else paths[-1] if paths else arguments
    name = re.sub(r"\[\d+\]", "", name)
    name = re.sub(r"\.\d+\.tmp$", ".tmp", name)
    return re.sub(r"pod\d+(-[0-9a-f]{12})?", "POD", name)


def _message(arguments: str) -> str:
    """A netlink message as its type and attributes; another message as its socket's family."""
    message = _MESSAGE.search(arguments)
    if message is None:
        family = re.search(r"sa_family=(\w+)", arguments)
        return f"frame, {family[1]}" if family else "frame"
    body = bytes.fromhex(message[3].replace("\\x", ""))
    data = struct.pack("=IHHII", 16 + len(body), int(message[1], 0), 1, 1, 0) + body
    (decoded,) = MarshalRtnl().parse(data)
    flags = f"flags {decoded['flags']:#x}/{decoded['change']:#x}" if decoded.get("change") else ""
    return " ".join(filter(None, [decoded["event"], ", ".join(_names(decoded["attrs"])), flags]))


def _names(attributes: list[tuple[str, object]]) -> Iterator[str]:
    for name, value, *_ in attributes:
        inner = value.get("attrs") if isinstance(value, dict) else None
        yield from _names(inner) if inner else [name]


def named(error: str, text: str) -> bool:
    """Whether a text names that error (EIO), by its symbol or by the C library's text."""
    return error in text or os.strerror(getattr(errno, error)) in text
