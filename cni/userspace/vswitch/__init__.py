"""Ports of a vswitch: the `Vswitch` protocol, and Open vSwitch."""
