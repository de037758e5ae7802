"""The driver of virtio network devices (virtio 1, PCI). Source of all layouts: VIRTIO version 1.2, OASIS."""
