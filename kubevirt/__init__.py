"""The sidecar of KubeVirt's network binding plugin: it adds vhost-user interfaces to a domain."""
