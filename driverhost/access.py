"""Who may use the interface: the kernel says who has connected (SO_PEERCRED)."""

from __future__ import annotations

import os
import socket
import struct
from typing import NamedTuple

_CREDENTIALS = struct.Struct("=iII")


class Peer(NamedTuple):
    """The process that has connected. A process of a user namespace that this one does not know has the uid 65534."""

    pid: int
    uid: int
    gid: int


class Access(NamedTuple):
    """Root, and the user of the driver host itself, are always allowed."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def allows(self, peer: Peer) -> bool:
        return peer.uid in (0, os.geteuid()) or peer.uid in self.uids or peer.gid in self.gids


def peer_of(connection: socket.socket) -> Peer:
    return Peer(*_CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))
