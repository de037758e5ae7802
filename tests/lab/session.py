"""Objects that the lab tests of one session share: the bundle, and the machines, booted for the first test that needs
them.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.lab.cni import BIN_DIR
from tests.lab.errors import LabError
from tests.lab.health import require_health
from tests.lab.image import REPOSITORY
from tests.lab.progress import Say
from tests.lab.snapshot import Tree
from tests.lab.vm import Vm

BUNDLE = REPOSITORY / "dist" / "barewire"
GUEST_BUNDLE = "/run/lab/bundle"


def install_bundle(vm: Vm, bundle: Path = BUNDLE, bin_dir: str = BIN_DIR) -> None:
    """Installs the frozen plugins in the guest as an operator does. Raises LabError when they are not built."""
    if not (bundle / "install.sh").exists():
        raise LabError(f"there is no frozen bundle in {bundle}", hint="run make freeze")
    if vm.disk == bundle:
        vm.mount_disk(GUEST_BUNDLE)
    else:
        vm.put_tree(bundle, GUEST_BUNDLE)
    vm.run(f"{GUEST_BUNDLE}/install.sh", bin_dir)


class Machines:
    """Healthy machines by their number of PFs. A test with fewer PFs uses a running machine with more."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._running: dict[int, Vm] = {}
        self._with_bundle: dict[Vm, int] = {}
        self._states: dict[Vm, tuple[int, Tree]] = {}
        self._ends = ExitStack()

    def machine(self, pfs: int = 1) -> Vm:
        enough = [number for number in sorted(self._running) if number >= pfs]
        if not enough:
            self._running[pfs] = self._boot(pfs)
        vm = self._running[enough[0] if enough else pfs]
        if vm.gone:
            # One test has failed because of it; the others get a new machine.
            self.renew(vm)
        return vm

    def ensure_bundle(self, vm: Vm) -> None:
        """Installs the plugins unless that was done since the machine's last boot."""
        if self._with_bundle.get(vm) != vm.boots:
            install_bundle(vm)
            self._with_bundle[vm] = vm.boots

    def keep_state(self, vm: Vm, state: Tree) -> None:
        """Keeps the state of the host at the end of a test, so that the next one need not read it again."""
        self._states[vm] = (vm.boots, state)

    def take_state(self, vm: Vm) -> Tree | None:
        """The kept state; None after a boot, and after a test that was interrupted."""
        boots, state = self._states.pop(vm, (0, None))
        return state if boots == vm.boots else None

    def renew(self, vm: Vm) -> None:
        """Boots the machine again, which removes everything that a test left. Installed plugins are installed again."""
        self._say("a test left traces: booting the machine again")
        vm.reboot(keep=())
        require_health(vm)
        if vm in self._with_bundle:
            self.ensure_bundle(vm)

    def _boot(self, pfs: int) -> Vm:
        vm = self._ends.enter_context(Vm(pfs=pfs, disk=BUNDLE if BUNDLE.exists() else None, say=self._say))
        require_health(vm)
        return vm

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._ends.close()
