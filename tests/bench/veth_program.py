"""Entry point of a frozen program for the benchmark only: the `sriov` plugin with a veth instead of a VF.

Everything but the lookup of the device is the product's code: request, configuration, locks, record, move, result. The
"VF" 0000:ff:00.0 is the host's link `bwbench0`, and 0000:ff:00.1 is `bwbench1`. In the pod the link is identified by
its mark, since a veth has no PCI parent.
"""

from __future__ import annotations

import sys

from cni.serve import main
from cni.sriov.__main__ import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from cni.protocol.request import Request
    from cni.serve import Plugin

NAME = "sriov-on-veth"
VFS_VARIABLE = "BENCH_VFS"
"""A variable of a call: the number of VFs in the report that the plugin decodes at each lookup of the device."""


def host_name(device: str) -> str:
    """The link of the host that stands for a VF 0000:ff:0X.Y."""
    return f"bwbench{int(device[-4:-2], 16) * 8 + int(device[-1])}"


def pf_message(vfs: int) -> bytes:
    """The kernel's message about a PF with so many VFs, as igb reports them."""
    from cni.host import netlink as nl

    number = b"\xee" * 4
    values = {1: bytes(32), 2: bytes(8), 3: bytes(4), 4: bytes(4), 5: bytes(4), 6: bytes(8), 7: bytes(4), 9: bytes(4)}
    entry = nl.nested(nl.IFLA_VF_INFO, *[nl.attribute(kind, number + value) for kind, value in values.items()])
    entries = [entry.replace(number, vf.to_bytes(4, "little")) for vf in range(vfs)]
    return nl.link_body(1, nl.u32(nl.IFLA_NUM_VF, vfs), nl.attribute(nl.IFLA_VFINFO_LIST, b"".join(entries)))


def load_for_veth(request: Request) -> Plugin:
    """The product's own composition root, with another lookup of the device."""
    from cni.host import links, netlink as nl
    from cni.host.device import Device
    from cni.host.kernel import HostKernel
    from cni.host.vf_settings import VfInfo, report_of
    from cni.pci import PciAddress
    from cni.sriov.attach import NO_MAC

    count = int(request.env.get(VFS_VARIABLE) or 0)

    class VethKernel(HostKernel):
        def exists(self, device):
            return True

        def instance(self, device):
            return 1

        def netdev_instance(self, device):
            return "1"

        def driver(self, device):
            return "veth"

        def device(self, address):
            # A real lookup requests the VFs of the PF; a request about the veth costs the kernel about the same.
            return Device(
                address=address,
                index=0,
                driver="veth",
                pf=PciAddress("0000:ff:00.1"),
                pf_name=host_name(address),
                pf_index=0,
                pf_driver="veth",
                settings=self._settings(),
                link=self.link(address, None),
            )

        def _settings(self):
            if not count:
                return VfInfo(index=0, mac=NO_MAC)  # The PF has set no address.
            reported = report_of(nl.link(pf_message(count)), count - 1)
            return reported and reported.replace(index=0)

        def link(self, device, netns):
            if netns is None:
                return links.by_name(self._socket(None), host_name(device))
            marked = [link for link in self.links(netns) if link.alias.startswith(f"barewire {device} ")]
            return marked[0] if marked else None

    return load(request, VethKernel)


def main_helper(arguments: list[str]) -> NoReturn:
    """Runs the helper, with this program in addition to the plugins."""
    from cni.helper.start import PROGRAMS, main as serve_launchers

    serve_launchers(arguments, {**PROGRAMS, NAME: load_for_veth})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main_helper(sys.argv[1:])
    main(NAME, load_for_veth)
