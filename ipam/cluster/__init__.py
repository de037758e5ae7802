"""A cluster's leases as one node uses them: the journal, and what is done by it. It knows no backend."""
