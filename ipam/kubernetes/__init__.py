"""Leases in Kubernetes, in whereabouts' resources."""
