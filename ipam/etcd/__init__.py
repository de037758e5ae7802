"""Leases in etcd."""
