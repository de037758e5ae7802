"""Changes by applications and administrators that `ip` cannot make: an XDP program, `ethtool`'s settings.

It uses only the standard library and no product code: the text of this file also runs in the lab's machine.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import platform
import socket
import struct

_BPF = {"x86_64": 321, "aarch64": 280}
_PROG_LOAD, _PROG_TYPE_XDP = 5, 6
_PASS = 2
_RTM_SETLINK, _REQUEST_ACK, _ERROR = 19, 5, 2
_IFLA_XDP, _XDP_FD, _XDP_FLAGS, _SKB_MODE, _NESTED = 43, 1, 3, 2, 0x8000


_SIOCETHTOOL, _SET_GRO, _GET_RINGS, _SET_RINGS = 0x8946, 0x2C, 0x10, 0x11


def enter(namespace: str) -> None:
    """Enters a network namespace by its path."""
    with open(namespace) as file:
        if ctypes.CDLL(None).setns(file.fileno(), 0x40000000):
            raise OSError(f"setns to {namespace}")


def set_gro(name: str, *, on: bool) -> None:
    """`ethtool -K NAME gro on`."""
    _ethtool(name, array.array("I", [_SET_GRO, on]))


def set_rx_ring(name: str, size: int) -> None:
    """`ethtool -G NAME rx SIZE`."""
    rings = array.array("I", [_GET_RINGS, *[0] * 8])
    _ethtool(name, rings)
    rings[0], rings[5] = _SET_RINGS, size
    _ethtool(name, rings)


def _ethtool(name: str, command: array.array[int]) -> None:
    request = struct.pack("16sP", name.encode(), command.buffer_info()[0]).ljust(40, b"\0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCETHTOOL, request)


def attach_xdp(name: str) -> None:
    """Attaches an XDP program that passes every packet on, and leaves it there. Raises `OSError`.

    It uses the kernel's generic mode, which works with every driver.
    """
    inside = struct.pack("=HHi", 8, _XDP_FD, _program()) + struct.pack("=HHI", 8, _XDP_FLAGS, _SKB_MODE)
    body = struct.pack("=BxHiII", 0, 0, socket.if_nametoindex(name), 0, 0)
    body += struct.pack("=HH", 4 + len(inside), _IFLA_XDP | _NESTED) + inside
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(body), _RTM_SETLINK, _REQUEST_ACK, 1, 0) + body)
        kind, code = struct.unpack_from("=4xH10xi", kernel.recv(65536))
    if kind != _ERROR or code:
        raise OSError(-code, f"XDP on {name}")


def _program() -> int:
    instructions = struct.pack("=BBhi", 0xB7, 0, 0, _PASS) + struct.pack("=BBhi", 0x95, 0, 0, 0)  # r0 = PASS; exit
    code, licence = ctypes.create_string_buffer(instructions), ctypes.create_string_buffer(b"GPL")
    request = struct.pack("=IIQQ", _PROG_TYPE_XDP, 2, ctypes.addressof(code), ctypes.addressof(licence)) + bytes(104)
    libc = ctypes.CDLL(None, use_errno=True)
    program: int = libc.syscall(_BPF[platform.machine()], _PROG_LOAD, request, len(request))
    if program < 0:
        raise OSError(ctypes.get_errno(), "bpf(BPF_PROG_LOAD)")
    return program
