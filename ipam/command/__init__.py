"""The `barewire-ipam` command: what an administrator does with the leases of a node's networks."""
