"""The QEMU process of a lab machine, which never outlives the tests, and its command line.

It only emulates (TCG), so that it runs alike on every machine. Each PF's uplink is a pair of unix datagram sockets that
carry raw Ethernet frames: the tests are the switch port.
"""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

from tests.lab.errors import VmFailed
from tests.lab.frames import PORT
from tests.lab.image import Image

# With more memory q35 puts RAM above 4 GiB and the firmware puts the VFs' BARs behind it, where QEMU's VFs do not work.
MOST_MEMORY = 2048
# `-cpu max` has RDRAND, without which the guest's first Python waits for entropy.
MACHINE = "-machine q35,kernel-irqchip=split -accel tcg,thread=multi -cpu max,la57=off,smap=off,smep=off,umip=off"
PLAIN = "-nodefaults -no-user-config -display none -no-reboot"
IOMMU = "-device intel-iommu,intremap=on,caching-mode=on"
# Two network cards without SR-IOV, like a VF inside a virtual machine; behind this bridge they share an IOMMU group. No
# driver is loaded for them until a test does it.
PLAIN_NICS = (
    "-device pcie-pci-bridge,id=shared -netdev hubport,id=nowhere0,hubid=0 -netdev hubport,id=nowhere1,hubid=1"
    " -device e1000,bus=shared,addr=1,netdev=nowhere0,mac=52:54:00:ba:7e:e0"
    " -device e1000,bus=shared,addr=2,netdev=nowhere1,mac=52:54:00:ba:7e:e1"
)
# Two virtio network cards on one network, whose DMA the IOMMU translates. The guest loads no driver for them either.
VIRTIO_NICS = (
    "-netdev hubport,id=virtual0,hubid=2 -netdev hubport,id=virtual1,hubid=2"
    " -device virtio-net-pci,netdev=virtual0,mac=52:54:00:ba:7e:f0,disable-legacy=on,iommu_platform=on"
    " -device virtio-net-pci,netdev=virtual1,mac=52:54:00:ba:7e:f1,disable-legacy=on,iommu_platform=on"
)
# Options that save time under emulation. iommu=pt keeps the kernel's own devices out of the IOMMU's tables. Debian's
# kernel clears all memory that it allocates, and calls several security modules for each file, which takes a tenth of
# the time.
KERNEL = (
    "console=hvc0 quiet panic=-1 intel_iommu=on iommu=pt mitigations=off nokaslr no_timer_check tsc=reliable "
    "cryptomgr.notests random.trust_cpu=on audit=0 nowatchdog init_on_alloc=0 lsm=capability hardened_usercopy=off "
    "randomize_kstack_offset=off"
)
# QEMU ends when the pipe on its parent's stdin closes, because the tests close it or are killed. Then the shell prints
# how QEMU ended: 137 is our own signal; 0 means that the guest was shut down or reset itself; otherwise QEMU crashed.
LEASH = '"$@" </dev/null & read -r _; kill -9 $! 2>/dev/null; wait $!; echo "QEMU ended with status $?"'


QMP = "qmp"
"""Name of QEMU's own socket."""
QMP_SECONDS = 10.0


def plug_cable(folder: Path, pf: int, *, plugged: bool) -> None:
    """Plugs in, or pulls, the cable of a PF of the machine in that folder. Raises `OSError`, `VmFailed`."""
    with socket.socket(socket.AF_UNIX) as line:
        line.settimeout(QMP_SECONDS)
        line.connect(str(folder / QMP))
        with line.makefile("rw") as talk:
            talk.readline()  # its greeting
            orders: dict[str, dict[str, object]] = {
                "qmp_capabilities": {},
                "set_link": {"name": f"uplink{pf}", "up": plugged},
            }
            for command, arguments in orders.items():
                talk.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
                talk.flush()
                answer = {"event": ""}
                while "event" in answer:
                    answer = json.loads(talk.readline())
                if "return" not in answer:
                    raise VmFailed(f"QEMU does not {command}", str(answer))


def uplink_mac(pf: int) -> str:
    """The address that identifies a PF's uplink in the guest."""
    return f"52:54:00:ba:7e:{pf:02x}"


def command(
    image: Image, folder: Path, *, pfs: int, vfs: int, memory: int, cpus: int, append: str, disk: Path | None = None
) -> list[str]:
    """The command line for a machine whose sockets `ctl`, `console` and `pfN.host` are already in the folder.

    `disk` is the image of a second disk, /dev/vdb in the guest.
    """
    assert memory <= MOST_MEMORY, f"at most {MOST_MEMORY} MiB: above, the VFs do not work"
    options = f"lab.vfs={vfs} lab.python={image.python} {append}"
    return [
        *f"qemu-system-x86_64 {PLAIN} {MACHINE} -smp {cpus} -m {memory} {IOMMU}".split(),
        *(word for pf in range(pfs) for word in _pf(folder, pf)),
        *PLAIN_NICS.split(),
        *VIRTIO_NICS.split(),
        *_disk(image.root, "root"),
        *("-device", "virtio-serial-pci"),
        *_line(folder / "console", "console", "virtconsole"),
        *_line(folder / "ctl", "ctl", f"virtserialport,name={PORT}"),
        *(_disk(disk, "more") if disk else ()),
        *("-qmp", f"unix:{folder / QMP},server=on,wait=off"),
        *("-kernel", str(image.vmlinux), "-initrd", str(image.initramfs), "-append", f"{KERNEL} {options}"),
    ]


def _pf(folder: Path, pf: int) -> list[str]:
    port = f"pcie-root-port,id=port{pf},chassis={pf + 1},bus=pcie.0"
    uplink = f"dgram,id=uplink{pf},local.type=unix,local.path={folder}/pf{pf}.qemu,remote.type=unix,remote.path={folder}/pf{pf}.host"
    nic = f"igb,netdev=uplink{pf},bus=port{pf},mac={uplink_mac(pf)}"
    return ["-device", port, "-netdev", uplink, "-device", nic]


def _disk(path: Path, name: str) -> list[str]:
    return [
        "-drive",
        f"file={path},format=raw,if=none,id={name},readonly=on",
        "-device",
        f"virtio-blk-pci,drive={name}",
    ]


def _line(path: Path, name: str, device: str) -> list[str]:
    """A serial line. QEMU connects to our socket, so that no output of the guest is lost."""
    return ["-chardev", f"socket,id={name},path={path}", "-device", f"{device},chardev={name}"]


class Qemu:
    """The process, from its creation until `end`."""

    def __init__(self, argv: list[str], log: Path) -> None:
        self._log = log
        with log.open("wb") as out:
            self._leash = subprocess.Popen(["/bin/sh", "-c", LEASH, "leash", *argv], stdin=-1, stdout=out, stderr=out)

    def end(self) -> None:
        """Ends it immediately, without notifying the guest."""
        assert self._leash.stdin
        self._leash.stdin.close()
        self._leash.wait(timeout=10)

    def messages(self) -> str:
        """Ends it, and returns its output and how it ended; empty if its folder is gone."""
        self.end()
        return self._log.read_text(errors="replace") if self._log.exists() else ""
