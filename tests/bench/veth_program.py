"""Entry point of a frozen program for the benchmark only: the `sriov` plugin, with a veth in the place of a VF.

Everything but the look-up of the device is the product's: request, configuration, locks, record, move, result. The
"VF" 0000:ff:00.0 is the host's link `bwbench0`; in the pod it is known by its mark, since a veth has no PCI parent.
"""

from __future__ import annotations

from cni.serve import main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.ports import Plugin
    from cni.request import Request

HOST_NAME = "bwbench0"


def load(request: Request) -> Plugin:
    """As in cni/sriov/__main__.py."""
    from cni.attachments import Attachments  # a composition root imports where it wires
    from cni.delegate import DelegatedIpam
    from cni.host import links
    from cni.host.kernel import HostKernel
    from cni.host.netlink import VfInfo
    from cni.log import open_log
    from cni.pci import PciAddress
    from cni.sriov.plugin import SriovPlugin
    from cni.vf import Vf

    class VethKernel(HostKernel):
        def exists(self, device):
            return True

        def vf(self, device):
            # A real look-up asks the PF about its VFs; asking the veth itself costs the kernel about the same.
            return Vf(
                device=device,
                index=0,
                driver="veth",
                pf=PciAddress("0000:ff:00.1"),
                pf_name=HOST_NAME,
                pf_index=0,
                pf_driver="veth",
                settings=VfInfo(index=0),
                link=self.link(device, None),
            )

        def link(self, device, netns):
            if netns is None:
                return links.by_name(self._socket(None), HOST_NAME)
            marked = [link for link in self.everywhere(netns) if link.alias.startswith(f"barewire {device} ")]
            return marked[0] if marked else None

    log = open_log(
        request.config,
        plugin="sriov",
        command=request.command,
        container_id=request.container_id,
        ifname=request.ifname,
        device=str(request.config.get("deviceID", "")),
    )
    return SriovPlugin(
        kernel=VethKernel(log), attachments=Attachments(warn=log.warning), ipam=DelegatedIpam(request.env), log=log
    )


if __name__ == "__main__":
    main("sriov-on-veth", load)
