"""Access to a PCI device through the kernel's VFIO."""
