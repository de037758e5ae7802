"""Shared parts of the Barewire plugins: protocol, results, errors, records, host access."""
