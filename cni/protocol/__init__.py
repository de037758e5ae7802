"""What CNI says: requests, results, and the arguments of a call. Pure."""
