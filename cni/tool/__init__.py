"""The command `barewire`: what an operator does on a node."""
