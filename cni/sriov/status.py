"""STATUS: whether an ADD can be served, and whether the pods that have a device can still use it."""

from __future__ import annotations

from cni.errors import DeviceNotFound, KernelRefused, LimitedConnectivity, NotAvailable
from cni.pci import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.sriov.conf_sections import UncheckedSriovConfDict
    from cni.sriov.kernel import Kernel


def require_host(kernel: Kernel) -> None:
    """The kernel responds, and permits changes of the network. Raises `NotAvailable`."""
    try:
        kernel.link_by_name("lo", None)
    except KernelRefused as error:
        raise NotAvailable(error.msg, hint=error.hint) from error
    if not kernel.tells_devices():
        raise NotAvailable(
            "this kernel does not tell the PCI addresses of network devices", hint="Linux 5.14 or later does"
        )
    if not kernel.has_admin_capabilities():
        raise NotAvailable(
            "the plugin may not administrate the network here", hint="it needs CAP_NET_ADMIN and CAP_SYS_ADMIN"
        )


def require_pf(kernel: Kernel, conf: UncheckedSriovConfDict) -> None:
    """The configured PF exists, and has VFs. Raises `NotAvailable`."""
    name = conf.get("master") or conf.get("if0")
    if not isinstance(name, str) or not name or conf.get("deviceID"):
        return
    try:
        found = kernel.vfs(kernel.pf_of_name(name))
    except DeviceNotFound as error:
        raise NotAvailable(error.msg, hint=error.hint) from error
    if not found and not conf.get("pfOnly"):
        raise NotAvailable(f"PF {name} has no VFs", hint="create them through its sriov_numvfs")


def require_pfs_up(kernel: Kernel, pfs: set[str]) -> None:
    """The PFs of the pods' VFs exist and are up: frames of a VF pass its PF. Raises `LimitedConnectivity`."""
    for pf in sorted(pfs):
        link = kernel.link(parse(pf), None)
        if link is None:
            raise LimitedConnectivity(
                f"PF {pf} has no network device any more, and pods have VFs of it", hint="see dmesg"
            )
        if not link.up:
            raise LimitedConnectivity(
                f"PF {link.name} is down, and pods have VFs of it", hint=f"ip link set {link.name} up"
            )
