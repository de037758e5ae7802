"""Access to the API server of Kubernetes, and to pods and their annotations."""
