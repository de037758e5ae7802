"""The command `barewire` for operators of a node."""
