"""The sidecar of KubeVirt's network binding: it gives a domain its vhost-user interfaces."""
