"""The kubelet's protocols: our descriptions of their messages, and the modules that `make protos` makes of them."""
