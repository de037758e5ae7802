"""A virtual function as found, and the settings that its PF holds for it. All values, no I/O."""

from __future__ import annotations

from cni.value import Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni.host.netlink import Link, VfInfo
    from cni.pci import PciAddress


class Vf(Value):
    """A VF as found on the host. `link` is None while its network device is in another namespace, or it has none."""

    device: PciAddress
    index: int
    driver: str
    pf: PciAddress
    pf_name: str
    pf_index: int
    pf_driver: str
    settings: VfInfo
    link: Link | None


class VfSettings(Value):
    """PF-side settings of a VF that a configuration asks for; None leaves the setting as it is.

    Rates in Mbit/s, 0 is no limit. `vlan`, `qos` and `proto` are set together.
    """

    vlan: int | None = None
    qos: int | None = None
    proto: str | None = None
    mac: str | None = None
    spoofchk: bool | None = None
    trust: bool | None = None
    min_tx_rate: int | None = None
    max_tx_rate: int | None = None
    link_state: str | None = None
