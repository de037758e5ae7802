"""The plugin `userspace`: gives a pod a DPDK vhost-user port of Open vSwitch."""
