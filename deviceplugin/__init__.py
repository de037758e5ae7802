"""Offers the node's PCI devices to the kubelet: inventory, pools, IOMMU groups, the device plugin's protocol."""
