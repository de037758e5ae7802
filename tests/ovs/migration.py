"""The live migration of a domain between two virt-launcher pods, as KubeVirt does it.

virt-launcher of the source calls libvirt with MIGRATE_LIVE, MIGRATE_PEER2PEER and MIGRATE_PERSIST_DEST, and with its
own description of the domain for the target. Unix sockets in the pod's folder `migrationproxy` lead to the target's
libvirt and to its QEMU. Between the sockets of the two pods are virt-handler's proxies, here `Relay`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Self
from xml.etree import ElementTree as ET

from tests.kubevirt_hooks.schema import written
from tests.ovs.daemon import until
from tests.ovs.launcher_pod import USER, LauncherPod
from tests.ovs.libvirtd import SOCKET, Libvirtd, MovableDomain

FOLDER = "run/kubevirt/migrationproxy"
UID = "5a3c9a2e-64f7-4ad7-a1e6-0d6f3c1d2b10"
"""Of the VirtualMachineInstance: the sockets are named after it."""
DIRECT_PORT = 49152
"""KubeVirt's number for QEMU's own stream."""
TO_LIBVIRT, TO_QEMU = f"{FOLDER}/{UID}-source.sock", f"{FOLDER}/{UID}-{DIRECT_PORT}-source.sock"
MIGRATION_SECONDS = 120.0


class Relay:
    """Listens on a socket in the source's pod, and connects each connection to one in the target's pod."""

    def __init__(self, here: str, there: str) -> None:
        self._there = there
        self.carried = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(here)
        os.chown(here, USER, USER)
        self._listener.listen()
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def end(self) -> None:
        """Cuts what is connected."""
        for each in self._open:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        # Ends with the listener.
        with suppress(OSError):
            while True:
                here, _address = self._listener.accept()
                there = socket.socket(socket.AF_UNIX)
                self._open += [here, there]
                try:
                    there.connect(self._there)
                except OSError:
                    here.close()
                    continue
                for ends in ((here, there), (there, here)):
                    threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
                self.carried += len(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)


class Migration:
    """Of a domain to another pod; starts with `with`.

    `bandwidth` is in MiB/s; 0 is without limit. `change` is for the target's description of the domain.
    """

    def __init__(
        self,
        domain: MovableDomain,
        target: Libvirtd,
        *,
        bandwidth: int = 0,
        change: Callable[[bytes], bytes] = lambda text: text,
    ) -> None:
        self._domain, self._source, self._target = domain, domain.libvirtd, target
        self._bandwidth, self._change = bandwidth, change
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        source, target = self._source.pod, self._target.pod
        for pod in (source, target):
            _make_folder(pod)
        self._libvirt = Relay(f"{source.root}/{TO_LIBVIRT}", f"{target.root}/{SOCKET}")
        self._ends.callback(_remove, source, TO_LIBVIRT)
        self._ends.callback(self._libvirt.end)
        self._qemu = Relay(f"{source.root}/{TO_QEMU}", f"{target.root}/{TO_QEMU}")
        self._ends.callback(_remove, source, TO_QEMU)
        self._ends.callback(self._qemu.end)
        name = self._domain.name
        # KubeVirt reads the description with Go's XML package, and writes it again with all that is in it.
        text = written(ET.fromstring(self._source.virsh("dumpxml", "--migratable", name)))
        described = self._domain.folder / "target.xml"
        described.write_bytes(self._change(text))
        self._process = self._source.start_virsh(
            *("migrate", "--live", "--p2p", "--persistent", name),
            *("--desturi", f"qemu+unix:///session?socket=/{TO_LIBVIRT}", "--migrateuri", f"unix:///{TO_QEMU}"),
            *("--xml", str(described), "--persistent-xml", str(described), "--dname", name),
            *(("--bandwidth", str(self._bandwidth)) if self._bandwidth else ()),
        )
        return self

    def __exit__(self, *_exc: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._ends.close()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def await_data(self) -> None:
        """Returns when the guest's memory is on its way."""
        until("the memory's first part", lambda: self._qemu.carried > 1 << 20 or not self.running)
        assert self.running, self._process.communicate()

    def cancel(self) -> None:
        self._source.virsh("domjobabort", self._domain.name)

    def cut(self) -> None:
        """The connection between the nodes is lost."""
        self._qemu.end()
        self._libvirt.end()

    def finish(self) -> None:
        """Returns when the domain is at the target; raises MachineError with libvirt's words when it is not."""
        self._source.ended(self._process, MIGRATION_SECONDS)
        self._domain.follow(self._target)


def _make_folder(pod: LauncherPod) -> None:
    folder = pod.root / FOLDER
    folder.mkdir(exist_ok=True)
    os.chown(folder, USER, USER)


def _remove(pod: LauncherPod, path: str) -> None:
    (pod.root / path).unlink(missing_ok=True)
