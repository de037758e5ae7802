"""The API server of Kubernetes: how it is reached, and pods with their annotations."""
