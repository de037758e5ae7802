"""Leases in the node's own directories, as host-local keeps them."""
