"""The objects of a lab test: a machine whose state before the test is known, pods, plugins, and the wire."""

from __future__ import annotations

from functools import cached_property

from tests.lab.cni import Pod, Runtime
from tests.lab.health import crashes
from tests.lab.session import Machines
from tests.lab.snapshot import Tree, difference, host_snapshot
from tests.lab.topology import Pf, Vf, arranged
from tests.lab.vm import Vm
from tests.lab.wire import Capture

# The kernel deletes a namespace in the background; then its VFs return. Waits at most 10 s for that.
_VFS_AT_HOME = """
import glob, os, time
deadline = time.monotonic() + 10
def away():
    return [vf for vf in glob.glob("/sys/bus/pci/drivers/igbvf/0*") if not glob.glob(vf + "/net/*")]
while away() and time.monotonic() < deadline:
    time.sleep(0.02)
print(*map(os.path.basename, away()))
"""

# Binds each VF that has another driver, or none, to its own again.
_OWN_DRIVERS = """
cd /sys/bus/pci/devices
for vf in $(ls -d ../drivers/igb/0*/virtfn*); do
    address=$(basename $(readlink $vf))
    [ "$(cat $address/driver_override)" = "(null)" ] || echo >$address/driver_override
    [ "$(basename $(readlink $address/driver))" != igbvf ] || continue
    [ ! -e $address/driver ] || echo $address >$address/driver/unbind
    echo $address >/sys/bus/pci/drivers_probe
done
"""


class Lab:
    """One test's view of a machine. `before` is the host's state when the test began."""

    def __init__(self, vm: Vm, machines: Machines) -> None:
        self.vm = vm
        self._machines = machines
        self._pods: list[Pod] = []
        self._console = vm.console()
        self.crashed: list[str] = []
        self.before: Tree = machines.take_state(vm) or host_snapshot(vm)

    @cached_property
    def pfs(self) -> tuple[Pf, ...]:
        """The PFs with their VFs, as they were before the test; `topology.pfs(lab.vm)` reads them again."""
        return arranged(self.before["pci"], {name: link["address"] for name, link in self.before["links"].items()})

    @property
    def pf(self) -> Pf:
        return self.pfs[0]

    @property
    def vfs(self) -> tuple[Vf, ...]:
        """The VFs of the first PF."""
        return self.pf.vfs

    @cached_property
    def runtime(self) -> Runtime:
        """Calls the frozen plugins, which are installed in the guest."""
        self._machines.ensure_bundle(self.vm)
        return Runtime(self.vm)

    def pod(self) -> Pod:
        """A new pod, which is removed after the test."""
        self._pods.append(Pod(self.vm))
        return self._pods[-1]

    def wire(self, uplink: int = 0) -> Capture:
        """Captures the frames that a PF sends to the outside from now on."""
        return self.vm.wires[uplink].capture()

    def send(self, frame: bytes, uplink: int = 0) -> None:
        """Sends a frame from the outside to a PF."""
        self.vm.wires[uplink].send(frame)

    def changes(self) -> list[str]:
        """The differences from the state before the test, one line each."""
        return difference(self.before, host_snapshot(self.vm))

    def crashes(self) -> list[str]:
        """The kernel's messages about crashes since the test began, or since it booted the machine again."""
        return crashes(self.vm.console().removeprefix(self._console))

    def wait_until_home(self) -> str:
        """Waits until VFs of deleted namespaces are back; returns the addresses of those that are not."""
        return self.vm.python(_VFS_AT_HOME).out.strip()

    def start_over(self) -> None:
        """Boots the machine again; its state then is the one before the test."""
        self._pods.clear()
        self.__dict__.pop("pfs", None)
        self._machines.renew(self.vm)
        self.before = host_snapshot(self.vm)

    def clean_up(self, *, may_leave_traces: bool = False) -> list[str]:
        """Removes the pods, and returns the test's other remains; the machine is as new for the next test.

        `crashed` then has the kernel's messages about crashes during the test.
        """
        for pod in self._pods:
            pod.delete()
        if self._pods:
            self.wait_until_home()
        left = self.changes()
        self.crashed = self.crashes()
        if self.crashed or (left and not (may_leave_traces and self._is_new_with_own_drivers())):
            self._machines.renew(self.vm)
        else:
            self._machines.keep_state(self.vm, self.before)
        return left

    def _is_new_with_own_drivers(self) -> bool:
        """Whether the host is as before once the VFs have their own drivers: a boot takes as long as five tests."""
        self.vm.sh(_OWN_DRIVERS, check=False)
        self.wait_until_home()
        return not self.changes()
