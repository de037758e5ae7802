"""Properties of PCI drivers by name: which give a device to user space, and which a configuration may request. Pure."""

from __future__ import annotations

# Not virtio-pci: its network devices belong to the virtio device below the PCI device, and are not found by a PCI
# address.
_KERNEL = frozenset(
    [
        "bnx2x",
        "bnxt_en",
        "be2net",
        "cxgb4vf",
        "ena",
        "enic",
        "fm10k",
        "fm10k-vf",
        "gve",
        "hinic",
        "hinic3",
        "hns3",
        "i40evf",
        "iavf",
        "ice-vf",
        "igbvf",
        "ionic",
        "ixgbevf",
        "liquidio_vf",
        "mlx4_core",
        "mlx5_core",
        "nfp",
        "nicvf",
        "qede",
        "qlcnic",
        "rvu_nicvf",
        "sfc",
        "sfc_ef100",
        "txgbevf",
        "ngbevf",
    ]
)
_USER = frozenset(("vfio-pci", "uio_pci_generic", "igb_uio"))


def gives_to_user_space(driver: str) -> bool:
    """Whether a driver of that name is one of VFIO's or UIO's: vfio-pci and its variants, uio_pci_generic, igb_uio."""
    return "vfio" in driver or "uio" in driver


def needs_iommu_group(driver: str) -> bool:
    """Whether the driver needs the whole IOMMU group of a device."""
    return "vfio" in driver


def is_bindable(driver: str) -> bool:
    """Whether a configuration may request the driver: a network driver of VFs, or one for user space.

    Any other driver could damage the node, and no pod's network needs one.
    """
    variant = driver.endswith(("vfio_pci", "vfio-pci")) and driver.replace("-", "_").isidentifier()
    return driver in _KERNEL or driver in _USER or variant
