"""Free VFs with a VLAN: sriov-cni leaves them when its ADD fails half-way, and the next pod gets the VLAN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cni.errors import CniError
from cni.pci import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cni.attachment.records import Attachments
    from cni.pci import PciAddress
    from cni.sriov.kernel import Kernel
    from cni.sriov.sriov_cni import SriovCniState


def with_vlans(kernel: Kernel, attachments: Attachments, sriov_cni: SriovCniState) -> Iterator[str]:
    """A line for each such VF without a record and without a running pod. Nothing is changed."""
    for vf in _vfs(kernel):
        if attachments.of_device(vf) is not None or sriov_cni.is_alive(vf):
            continue
        try:
            found = kernel.device(vf)
        except CniError:
            continue  # It has just disappeared, or its PF does not report it.
        is_home = found.link is not None or found.userspace
        if is_home and found.settings.vlan:
            yield (
                f"VF {vf} is free and has VLAN {found.settings.vlan}, which its next pod gets unless its network sets another "
                f"one; if nobody has set it on purpose: ip link set {found.pf_name} vf {found.index} vlan 0"
            )


def _vfs(kernel: Kernel) -> list[PciAddress]:
    """The VFs of all PFs, by the PFs' links."""
    found: list[PciAddress] = []
    for link in kernel.links(None):
        try:
            found += kernel.vfs(parse(link.parent))
        except ValueError:
            continue  # not on a PCI bus
    return sorted(set(found))
