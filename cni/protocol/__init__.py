"""The CNI protocol: requests, results, and the arguments of a call. Pure."""
