"""The driver host: drivers of network devices in user space, which run in a pod and serve its other containers."""
