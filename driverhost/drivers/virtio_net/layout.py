"""Registers, features and commands by their places and numbers. Source: VIRTIO 1.2, sections 2.7, 4.1.4 and 5.1."""

from __future__ import annotations

REDHAT, NETWORK = 0x1AF4, 0x1041

CAPABILITY_POINTER, VENDOR_CAPABILITY = 0x34, 0x09
COMMON, NOTIFY, DEVICE = 1, 2, 4
"""Kinds of structures in the vendor's capabilities."""

# The common configuration: offset and bits of a field.
FEATURE_SELECT, FEATURES = (0, 32), (4, 32)
ACCEPTED_SELECT, ACCEPTED = (8, 32), (12, 32)
CONFIG_VECTOR, QUEUES = (16, 16), (18, 16)
STATUS, GENERATION = (20, 8), (21, 8)
QUEUE_SELECT, QUEUE_SIZE, QUEUE_VECTOR, QUEUE_ENABLE = (22, 16), (24, 16), (26, 16), (28, 16)
QUEUE_NOTIFY_OFFSET = (30, 16)
QUEUE_DESCRIPTORS, QUEUE_AVAILABLE, QUEUE_USED = 32, 40, 48
"""Offsets of 64-bit fields, which are written as two words."""

ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, NEEDS_RESET, FAILED = 1, 2, 4, 8, 64, 128
NO_VECTOR = 0xFFFF

HAS_MAC, HAS_STATUS, HAS_CONTROL, CONTROLS_FILTER, CONTROLS_MAC = 1 << 5, 1 << 16, 1 << 17, 1 << 18, 1 << 23
VERSION_1, ACCESS_PLATFORM, HAS_SPEED = 1 << 32, 1 << 33, 1 << 63
"""ACCESS_PLATFORM: the device uses the addresses of the IOMMU."""

# The configuration of a network device: offset and bits.
LINK_STATUS, SPEED = (6, 16), (12, 32)
LINK_UP = 1
UNKNOWN_SPEED = 0xFFFFFFFF

RECEIVE, TRANSMIT, CONTROL = 0, 1, 2
"""Numbers of the queues of a device with one pair."""
HEADER_BYTES = 12
"""Of `struct virtio_net_hdr`, before each frame; all zero without offloads."""

# Classes and commands of the control queue.
FILTER, PROMISCUOUS, ALL_MULTICAST = 0, 0, 1
MAC, SET_MAC = 1, 1
ACCEPTED_COMMAND = 0

DESCRIPTOR_BYTES = 16
CONTINUES, WRITABLE = 1, 2
"""Flags of a descriptor: another one follows, and the device writes to it."""
