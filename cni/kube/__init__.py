"""The API server of Kubernetes, as far as pods and their annotations."""
