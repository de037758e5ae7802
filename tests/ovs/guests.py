"""Small virtual machines on vhost-user ports: QEMU without KVM, a Linux kernel and a shell.

QEMU listens on the socket, and starts the guest only when the vswitch has connected: the port must exist, or be created
soon.

    with Guest(socket_path, mac, "10.9.0.1/24") as one, Guest(...) as two:  # they start at the same time
        assert one.reaches("10.9.0.2")
"""

from __future__ import annotations

from pathlib import Path

from tests.ovs.guest_image import MEMORY_MIB, guest_image, kernel_command_line
from tests.ovs.machine import Machine

PLAIN = "-nodefaults -no-user-config -display none -no-reboot -accel tcg,thread=multi -cpu max"


class Guest(Machine):
    """One virtual machine with one network card.

    `address` is of the form 10.9.0.1/24, or empty. `mtu` is the MTU that the card reports to the guest; without it, the
    guest uses 1500. There is a CPU for each queue pair, because the guest would not use more queues.
    """

    def __init__(
        self,
        path: Path | str,
        mac: str,
        address: str = "",
        *,
        queues: int = 1,
        mtu: int | None = None,
        within: tuple[str, ...] = (),
    ) -> None:
        super().__init__(within)
        self._path, self._mac, self._address, self._queues, self._mtu = Path(path), mac, address, queues, mtu

    def _sockets(self) -> list[Path]:
        return [self._path]

    def _command(self) -> list[str]:
        image = guest_image()
        return [
            *f"qemu-system-x86_64 {PLAIN} -machine q35,memory-backend=ram -smp {self._queues} -m {MEMORY_MIB}".split(),
            # The vswitch reads and writes the guest's memory, so it must be shared.
            *("-object", f"memory-backend-memfd,id=ram,size={MEMORY_MIB}M,share=on"),
            *("-chardev", f"socket,id=vhost,path={self._path},server=on"),
            *("-netdev", f"vhost-user,id=net,chardev=vhost,queues={self._queues}"),
            *("-device", self._card()),
            *("-chardev", f"socket,id=shell,path={self.folder / 'shell'}"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=shell"),
            *("-chardev", f"file,id=console,path={self.folder / 'console.log'}", "-serial", "chardev:console"),
            *("-kernel", str(image.kernel), "-initrd", str(image.initramfs)),
            *("-append", kernel_command_line(self._address)),
        ]

    def _card(self) -> str:
        # A vector for each queue, one for the control queue and one for changes of the card's configuration.
        several = f",mq=on,vectors={2 * self._queues + 2}" if self._queues > 1 else ""
        mtu = f",host_mtu={self._mtu}" if self._mtu else ""
        return f"virtio-net-pci,netdev=net,mac={self._mac},romfile={several}{mtu}"
