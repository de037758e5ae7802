"""The plugin `barewire-ipam`: addresses from ranges, kept on the node, in etcd or in Kubernetes."""
