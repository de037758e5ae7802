"""The drivers of this package."""

from driverhost.drivers.igbvf.driver import IgbVf

BUILT_IN = (IgbVf,)
