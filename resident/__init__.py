"""Code that the resident gRPC programs share."""
