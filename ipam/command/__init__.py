"""The `barewire-ipam` command, with which an administrator manages the leases of a node's networks."""
