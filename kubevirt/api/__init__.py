"""KubeVirt's hook protocol: our descriptions of its messages, and the modules that `make protos` makes of them."""
