"""A libvirt domain with vhost-user interfaces, in the form that KubeVirt's network bindings give them.

libvirt runs inside virsh (`qemu:///embed`), in its own folder, mount namespace and PID namespace: there is no daemon,
nothing remains on the machine, and QEMU, which libvirt detaches, ends with the namespace.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.kubevirt_hooks.schema import read_back
from tests.ovs.daemon import LEASH
from tests.ovs.guest_image import CACHE, MEMORY_MIB, guest_image, kernel_command_line
from tests.ovs.machine import END_SECONDS, Machine, MachineError, read_answer

VIRSH_SECONDS = 60.0
"""Time limit of a virsh command. The first one on a machine takes 4 s more, because libvirt queries QEMU's
capabilities.
"""
RESET_SECONDS = 180.0
"""Limit for booting again, beside other guests that are busy."""
# No virtlogd, no other user, no cgroups and no label: root's own libvirt works without them.
QEMU_CONF = """\
stdio_handler = "file"
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
"""
# libvirt looks these up before it reads its configuration, and does not start without them.
ACCOUNTS = {
    "passwd": "libvirt-qemu:x:0:0::/nonexistent:/usr/sbin/nologin\n",
    "group": "libvirt-qemu:x:0:\n",
}
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc")
# The shell is process 1 and reaps QEMU when it waits for virsh: libvirt does not regard a domain as destroyed while its
# zombie exists. It responds as the shell in the guest does.
INSIDE = """
for file in passwd group; do mount --bind "$0/$file" /etc/$file; done
! tool=$(command -v ovs-vsctl) || mount --bind /dev/null "$tool"
set +e
while read -r line; do
    "$@" virsh --quiet --connect "qemu:///embed?root=$0/libvirt" "$line" </dev/null 2>&1
    printf '\\036%d\\n' $?
done
"""


@dataclass(frozen=True)
class Interface:
    """A card of the domain. `network` is its name in the VMI, from which KubeVirt makes an alias."""

    mac: str
    path: Path | str
    ifname: str
    network: str = ""
    queues: int = 1
    address: str = ""


class Domain(Machine):
    """A domain that is started by `with`; `interfaces` are in the order in which the guest finds them.

    With `hook` the domain has neither interfaces nor shared memory of its own: the function adds them, as a sidecar of
    KubeVirt does. It is called twice, as virt-launcher calls a sidecar: the second time with the part of libvirt's own
    description that KubeVirt's schema keeps. `user` is the ID of the user and the group of libvirt and QEMU.
    """

    def __init__(
        self,
        name: str,
        interfaces: list[Interface],
        *,
        memory_mib: int = MEMORY_MIB,
        within: tuple[str, ...] = (),
        hook: Callable[[bytes], bytes] | None = None,
        user: int = 0,
    ) -> None:
        super().__init__(within)
        self.name, self._interfaces, self._memory_mib = name, interfaces, memory_mib
        self._hook, self._user = hook, user

    def virsh(self, command: str) -> str:
        """The response to a line of virsh's own language. Raises MachineError with libvirt's message."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        stdin.write(f"{command}\n".encode())
        stdin.flush()
        status, answer = read_answer(stdout.fileno(), VIRSH_SECONDS, f"virsh {command}", self.log)
        if status:
            raise MachineError(f"virsh {command}: {answer}")
        return answer

    def state(self) -> str:
        return self.virsh(f"domstate {self.name}").strip()

    def xml(self) -> ET.Element:
        """The running domain as libvirt describes it."""
        return ET.fromstring(self.virsh(f"dumpxml {self.name}"))

    def destroy(self) -> None:
        try:
            self.virsh(f"destroy {self.name}")
        except MachineError:
            # libvirt kills QEMU, and sometimes notices its end before the command has finished; then the command finds
            # no domain.
            if self.name in self.virsh("list --name").split():
                raise

    def reset(self) -> None:
        """Boots the guest again in the same QEMU, like a reboot from inside; returns when the guest is up again."""
        self.ready()
        self.virsh(f"reset {self.name}")
        self._await_boot(RESET_SECONDS)

    def _sockets(self) -> list[Path]:
        return [Path(interface.path) for interface in self._interfaces]

    def _start(self) -> None:
        self._prepare()
        self._process = subprocess.Popen(
            [*LEASH, *self._within, *self._command()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=self._environment(),
        )
        try:
            self._create()
        except BaseException:
            self._stop()
            raise

    def _environment(self) -> dict[str, str]:
        folder = str(self.folder)
        # libvirt of another user than root keeps some things in that user's directories.
        homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"), folder)
        return {**os.environ, **(homes if self._user else {}), "LIBVIRT_LOG_OUTPUTS": f"3:file:{folder}/libvirt.log"}

    def _create(self) -> None:
        text, file = ET.tostring(self._domain()), self.folder / "domain.xml"
        if self._hook is None:
            file.write_bytes(text)
            self.virsh(f"create {file}")
            return
        for _pass in range(2):
            file.write_bytes(self._hook(text))
            self.virsh(f"define {file}")
            text = read_back(self.virsh(f"dumpxml --inactive {self.name}").encode())
        self.virsh(f"start {self.name}")

    def _prepare(self) -> None:
        root = self.folder / "libvirt"
        (root / "etc").mkdir(parents=True)
        (root / "etc/qemu.conf").write_text(QEMU_CONF.replace('"root"', f'"+{self._user}"'))
        # QEMU's capabilities: libvirt keeps them under a key of QEMU's version and its own.
        cache = CACHE / f"libvirt-{self._user}" if self._user else CACHE / "libvirt"
        cache.mkdir(parents=True, exist_ok=True)
        (root / "cache").symlink_to(cache)
        for name, line in ACCOUNTS.items():
            (self.folder / name).write_text(Path("/etc", name).read_text() + line)
        if self._user:
            for path in (cache, self.folder, root, root / "etc", self.folder / "shell"):
                os.chown(path, self._user, self._user)

    def _stop(self) -> None:
        # Not killed: when process 1 of the namespace ends by itself, all others have ended.
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin
        assert stdout
        stdin.close()
        try:
            self._process.wait(END_SECONDS)
        finally:
            self._process.kill()
            stdout.close()

    def _command(self) -> list[str]:
        return [*NAMESPACES, "sh", "-ec", INSIDE, str(self.folder), *(as_user(self._user) if self._user else ())]

    def _domain(self) -> ET.Element:
        image = guest_image()
        domain = ET.Element("domain", type="qemu")
        ET.SubElement(domain, "name").text = self.name
        ET.SubElement(domain, "memory", unit="MiB").text = str(self._memory_mib)
        if self._hook is None:
            backing = ET.SubElement(domain, "memoryBacking")
            ET.SubElement(backing, "source", type="memfd")
            ET.SubElement(backing, "access", mode="shared")
        system = ET.SubElement(domain, "os")
        ET.SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
        ET.SubElement(system, "kernel").text = str(image.kernel)
        ET.SubElement(system, "initrd").text = str(image.initramfs)
        ET.SubElement(system, "cmdline").text = kernel_command_line(*(each.address for each in self._interfaces))
        # Without it, libvirt 9 passes QEMU the option -no-acpi, which QEMU 9 and later do not have.
        ET.SubElement(ET.SubElement(domain, "features"), "acpi")
        self._add_cpus(domain)
        self._add_devices(domain)
        return domain

    def _add_cpus(self, domain: ET.Element) -> None:
        cpus = max(interface.queues for interface in self._interfaces)
        ET.SubElement(domain, "vcpu").text = str(cpus)
        cpu = ET.SubElement(domain, "cpu", mode="maximum")
        if self._hook:
            return
        numa = ET.SubElement(cpu, "numa")
        memory = str(self._memory_mib)
        ET.SubElement(numa, "cell", id="0", cpus=f"0-{cpus - 1}", memory=memory, unit="MiB", memAccess="shared")

    def _add_devices(self, domain: ET.Element) -> None:
        devices = ET.SubElement(domain, "devices")
        ET.SubElement(devices, "emulator").text = "/usr/bin/qemu-system-x86_64"
        if self._hook is None:
            devices.extend(interface_xml(each) for each in self._interfaces)
        serial = ET.SubElement(devices, "serial", type="file")
        ET.SubElement(serial, "source", path=str(self.folder / "console.log"))
        channel = ET.SubElement(devices, "channel", type="unix")
        ET.SubElement(channel, "source", mode="connect", path=str(self.folder / "shell"))
        ET.SubElement(channel, "target", type="virtio", name="shell")
        ET.SubElement(devices, "memballoon", model="none")


def as_user(user: int) -> tuple[str, ...]:
    """Starts a program as a container's user: without any capability, and with no way to one."""
    ids = (f"--reuid={user}", f"--regid={user}", "--clear-groups")
    return ("setpriv", *ids, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all")


def interface_xml(interface: Interface) -> ET.Element:
    """The application, here QEMU, listens: `server`, in libvirt's terms."""
    element = ET.Element("interface", type="vhostuser")
    ET.SubElement(element, "mac", address=interface.mac)
    ET.SubElement(element, "source", type="unix", path=str(interface.path), mode="server")
    ET.SubElement(element, "target", dev=interface.ifname)
    ET.SubElement(element, "model", type="virtio-non-transitional")
    queues = str(interface.queues)
    ET.SubElement(element, "driver", name="vhost", queues=queues, rx_queue_size="1024", tx_queue_size="1024")
    ET.SubElement(element, "alias", name=f"ua-{interface.network or interface.ifname}")
    return element
