"""Which device an ADD gets, held under its lock: the one that is named, or a free VF of a PF."""

from __future__ import annotations

import time

from cni import pci
from cni.errors import CniError, DeviceBusy, DeviceNotFound, TryAgainLater
from cni.rollback import on_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from cni.attachment.records import Attachments
    from cni.host.files import Lock
    from cni.pci import PciAddress
    from cni.sriov.kernel import Kernel

CHOICE_SECONDS = 10.0
"""Bound for VFs that another call works on, when all others are taken: one that a DEL holds is about to be free."""

_TOLD = 8
"""How many VFs a message tells of; a PF can have hundreds."""


class Held:
    """A device under its lock, for the time of a `with` block."""

    def __init__(self, device: PciAddress, lock: Lock) -> None:
        self._device = device
        self._lock = lock

    def __enter__(self) -> PciAddress:
        return self._device

    def __exit__(self, *_exc: object) -> None:
        self._lock.__exit__()


class Selection:
    """`make_free` raises `DeviceBusy` for a device that is somebody's, and cleans one that was left behind."""

    def __init__(self, kernel: Kernel, attachments: Attachments, make_free: Callable[[PciAddress], None]) -> None:
        self._kernel = kernel
        self._attachments = attachments
        self._make_free = make_free

    def hold(self, conf: dict[str, Any]) -> Held:
        """The device that the configuration asks for. Raises `DeviceBusy`, `DeviceNotFound`, `TryAgainLater`."""
        if conf.get("deviceID"):
            return self._hold(pci.parse(conf["deviceID"]))
        pf = self._kernel.pf_of_name(conf["master"])
        if conf.get("pfOnly"):
            return self._hold(pf)
        vfs = self._kernel.vfs(pf)
        if not vfs:
            raise DeviceNotFound(
                f"{conf['master']} ({pf}) has no VFs", hint=f"echo NUMBER >/sys/bus/pci/devices/{pf}/sriov_numvfs"
            )
        number = conf.get("vf")
        if number is None:
            return self._first_free(conf, vfs)
        if number >= len(vfs):
            raise DeviceNotFound(f"vf: {number}: PF {conf['master']} has VFs 0 to {len(vfs) - 1}")
        return self._hold(vfs[number])

    def _hold(self, device: PciAddress, seconds: float | None = None) -> Held:
        lock = self._attachments.locked(device, seconds)
        lock.__enter__()
        with on_failure(lock.__exit__):
            self._make_free(device)
        return Held(device, lock)

    def _first_free(self, conf: dict[str, Any], vfs: list[PciAddress]) -> Held:
        taken: dict[PciAddress, str] = {}
        deadline = time.monotonic() + CHOICE_SECONDS
        eligible = self._eligible(conf, vfs)
        held = self._free_one(conf, eligible, taken, 0.0, deadline)
        if held is None:
            worked_on = [vf for vf in eligible if vf not in taken]
            held = self._free_one(conf, worked_on, taken, CHOICE_SECONDS, deadline)
        if held is None:
            raise DeviceBusy(
                f"PF {conf['master']} has no free VF for this configuration: {_told(taken)}",
                hint="wait until a pod with one of them ends, or make more VFs",
            )
        return held

    def _free_one(
        self,
        conf: dict[str, Any],
        devices: list[PciAddress],
        taken: dict[PciAddress, str],
        patience: float,
        deadline: float,
    ) -> Held | None:
        """The first free one, or None. `taken` gets those that are not, with the reason.

        One whose lock another call has is awaited for `patience` seconds; with none it is passed over for now.
        """
        for device in devices:
            lock = self._attachments.locked(device, max(0.0, min(patience, deadline - time.monotonic())))
            try:
                lock.__enter__()
            except TryAgainLater as error:
                if patience:
                    taken[device] = error.msg
                continue
            reason = self._reason(conf, device, lock)
            if not reason:
                return Held(device, lock)
            lock.__exit__()
            taken[device] = reason
            # Bringing back what others left takes seconds each; there may be hundreds.
            if time.monotonic() > deadline:
                break
        return None

    def _reason(self, conf: dict[str, Any], device: PciAddress, lock: Lock) -> str:
        """Why the VF is not to be chosen; empty when it is. What is wrong with one VF does not concern the others."""
        with on_failure(lock.__exit__):
            try:
                self._make_free(device)
                return self._unfit(conf, device)
            except CniError as error:
                return error.msg

    def _eligible(self, conf: dict[str, Any], vfs: list[PciAddress]) -> list[PciAddress]:
        """The candidates: those first that have the wanted driver already, and that no record has.

        Without a wanted driver a pod expects what the PF's VFs are for: of a PF with VFs of both kinds, network devices.
        """
        wanted = conf.get("driver")
        if not wanted:
            vfs = [vf for vf in vfs if not self._kernel.in_user_space(vf)] or vfs
        return sorted(vfs, key=lambda vf: (self._attachments.has_owner(vf), self._kernel.driver(vf) != wanted))

    def _unfit(self, conf: dict[str, Any], device: PciAddress) -> str:
        """Why the VF is not to be chosen although no record has it; empty when it is."""
        found = self._kernel.device(device)
        if self._kernel.in_use(device):
            return "it is open in a process"
        if found.link is not None:
            return ", ".join(self._kernel.uses(found.link))
        if found.userspace or (conf.get("driver") and not found.driver):
            return ""
        return f"it has no network device on the host (driver: {found.driver or 'none'})"


def _told(taken: dict[PciAddress, str]) -> str:
    told = [f"{device}: {reason}" for device, reason in sorted(taken.items())]
    more = [f"and {len(told) - _TOLD} more"] if len(told) > _TOLD else []
    return "; ".join([*told[:_TOLD], *more])
