"""The library with which an application uses a device of the driver host. It needs nothing but Python."""

from driverhost.client.connection import Disconnected, Refused
from driverhost.client.plain import Client, connect
from driverhost.client.port import ApplicationPort

__all__ = ["ApplicationPort", "Client", "Disconnected", "Refused", "connect"]
