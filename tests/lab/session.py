"""What the lab tests of one session share: the machines, each booted when the first test needs it, and the bundle."""

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
    """Healthy machines by their number of PFs. A test that asks for fewer PFs takes one that has more, if it runs."""

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
            # One test has failed over it; the others get a machine.
            self.renew(vm)
        return vm

    def ensure_bundle(self, vm: Vm) -> None:
        """Installs the plugins unless that was done since the machine's last boot."""
        if self._with_bundle.get(vm) != vm.boots:
            install_bundle(vm)
            self._with_bundle[vm] = vm.boots

    def keep_state(self, vm: Vm, state: Tree) -> None:
        """Keeps what a test has found to be the state of the host at its end. The next one need not look again."""
        self._states[vm] = (vm.boots, state)

    def take_state(self, vm: Vm) -> Tree | None:
        """The state that was kept; None after another boot, and after a test that did not come to its end."""
        boots, state = self._states.pop(vm, (0, None))
        return state if boots == vm.boots else None

    def renew(self, vm: Vm) -> None:
        """Takes away everything that a test left: boots the machine again. Only plugins that were installed are again."""
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
