"""Devices whose data path is a process of DPDK, which the driver host starts, watches and restarts."""
