"""A cluster's leases as one node uses them: the journal and the operations on it. It knows no backend."""
