"""Leases in Kubernetes, in the resources of whereabouts."""
