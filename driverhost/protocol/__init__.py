"""The protocol between the driver host and an application: messages, and the memory of a port.

docs/driverhost.md describes both.
"""
