"""Selects the device of an ADD and locks it: the configured one, or a free VF of a PF."""

from __future__ import annotations

import time

from cni import pci
from cni.errors import CniError, DeviceBusy, DeviceNotFound, TryAgainLater
from cni.rollback import on_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.attachment.record import Key, Record
    from cni.attachment.records import Attachments
    from cni.host.files import Lock
    from cni.log import Log
    from cni.pci import PciAddress
    from cni.sriov.conf_sections import SriovConfDict
    from cni.sriov.kernel import Kernel
    from cni.sriov.removal import DeviceRemoval
    from cni.sriov.sriov_cni import SriovCniState

CHOICE_SECONDS = 10.0
"""How long to wait for VFs locked by other calls when no VF is free. A VF locked by a DEL is about to be freed."""

_MOST_NAMED = 8
"""The number of VFs that a message names; a PF can have hundreds."""


class LockedDevice:
    """A locked device, for a `with` block."""

    def __init__(self, device: PciAddress, lock: Lock) -> None:
        self._device = device
        self._lock = lock

    def __enter__(self) -> PciAddress:
        return self._device

    def __exit__(self, *_exc: object) -> None:
        self._lock.release()


class Selection:
    """Selects the device for one attachment, and cleans it if its owner is gone."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        attachments: Attachments,
        removal: DeviceRemoval,
        sriov_cni: SriovCniState,
        log: Log,
        key: Key,
    ) -> None:
        self._kernel = kernel
        self._attachments = attachments
        self._removal = removal
        self._sriov_cni = sriov_cni
        self._log = log
        self._key = key

    def locked(self, conf: SriovConfDict) -> LockedDevice:
        """The device that the configuration requests. Raises `DeviceBusy`, `DeviceNotFound`, `TryAgainLater`."""
        if conf.get("deviceID"):
            return self._named(pci.parse(conf["deviceID"]))
        pf = self._kernel.pf_of_name(conf["master"])
        if conf.get("pfOnly"):
            return self._named(pf)
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
        return self._named(vfs[number])

    def _named(self, device: PciAddress) -> LockedDevice:
        lock = self._attachments.locked(device)
        lock.acquire()
        with on_failure(lock.release):
            self._reclaim_or_refuse(device)
        return LockedDevice(device, lock)

    def _first_free(self, conf: SriovConfDict, vfs: list[PciAddress]) -> LockedDevice:
        taken: dict[PciAddress, str] = {}
        deadline = time.monotonic() + CHOICE_SECONDS
        eligible = self._eligible(conf, vfs)
        held = self._free_one(conf, eligible, taken, 0.0, deadline)
        if held is None:
            worked_on = [vf for vf in eligible if vf not in taken]
            held = self._free_one(conf, worked_on, taken, CHOICE_SECONDS, deadline)
        if held is None:
            raise DeviceBusy(
                f"PF {conf['master']} has no free VF for this configuration: {_reasons(taken)}",
                hint="wait until a pod with one of them ends, or make more VFs",
            )
        return held

    def _free_one(
        self,
        conf: SriovConfDict,
        devices: list[PciAddress],
        taken: dict[PciAddress, str],
        patience: float,
        deadline: float,
    ) -> LockedDevice | None:
        """The first free device, or None. Adds the others to `taken`, with the reason.

        Waits up to `patience` seconds for a device that another call has locked; if `patience` is 0, skips it.
        """
        for device in devices:
            lock = self._attachments.locked(device, max(0.0, min(patience, deadline - time.monotonic())))
            try:
                lock.acquire()
            except TryAgainLater as error:
                if patience:
                    taken[device] = error.msg
                continue
            reason = self._reason(conf, device, lock)
            if not reason:
                return LockedDevice(device, lock)
            lock.release()
            taken[device] = reason
            # Restoring a device that a pod left takes seconds, and there may be hundreds.
            if time.monotonic() > deadline:
                break
        return None

    def _reason(self, conf: SriovConfDict, device: PciAddress, lock: Lock) -> str:
        """Why the VF cannot be chosen; empty if it can. A problem of one VF does not affect the others."""
        with on_failure(lock.release):
            try:
                self._reclaim_or_refuse(device)
                return self._unfit(conf, device)
            except CniError as error:
                return error.msg

    def _eligible(self, conf: SriovConfDict, vfs: list[PciAddress]) -> list[PciAddress]:
        """The candidates. VFs that already have the wanted driver and have no record come first.

        Without a wanted driver, a pod expects VFs of the PF's main kind: if the PF has both kinds, network devices.
        """
        wanted = conf.get("driver")
        if not wanted:
            vfs = [vf for vf in vfs if not self._kernel.in_user_space(vf)] or vfs
        return sorted(vfs, key=lambda vf: (self._attachments.has_owner(vf), self._kernel.driver(vf) != wanted))

    def _unfit(self, conf: SriovConfDict, device: PciAddress) -> str:
        """Why a VF without a record cannot be chosen; empty if it can."""
        found = self._kernel.device(device)
        if self._kernel.in_use(device):
            return "it is open in a process"
        if found.link is not None:
            return ", ".join(self._kernel.host_uses(found.link))
        if found.userspace or (conf.get("driver") and not found.driver):
            return ""
        return f"it has no network device on the host (driver: {found.driver or 'none'})"

    def _reclaim_or_refuse(self, device: PciAddress) -> None:
        """Refuses a device in use. Restores one whose owner is gone, even if its DEL or its record is lost."""
        owner = self._attachments.of_device(device)
        if owner is None:
            self._sriov_cni.reclaim_or_refuse(device, self._key)
            self._removal.clean_orphan(device)
            return
        if self._removal.is_alive(owner):
            raise _in_use(device, owner, self._key)
        self._log.warning(f"{device} was left by container {owner.key.container_id}, which is gone: cleaning up")
        self._removal.remove_device(owner)


def _in_use(device: PciAddress, owner: Record, key: Key) -> DeviceBusy:
    if owner.key == key:
        return DeviceBusy(
            f"VF {device} is attached to this very container already, as {key.ifname}", hint="DEL it first"
        )
    return DeviceBusy(
        f"VF {device} belongs to container {owner.key.container_id} (interface {owner.key.ifname}, network "
        f"{owner.key.network})",
        hint=f"it is freed by that container's DEL, or when its network namespace {owner.netns} is gone",
    )


def _reasons(taken: dict[PciAddress, str]) -> str:
    reasons = [f"{device}: {reason}" for device, reason in sorted(taken.items())]
    more = [f"and {len(reasons) - _MOST_NAMED} more"] if len(reasons) > _MOST_NAMED else []
    return "; ".join([*reasons[:_MOST_NAMED], *more])
