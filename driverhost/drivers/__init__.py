"""The drivers of this package."""

from driverhost.drivers.igbvf.driver import IgbVf
from driverhost.drivers.virtio_net.driver import VirtioNet

BUILT_IN = (IgbVf, VirtioNet)
