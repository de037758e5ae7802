"""The only code that touches the kernel: netlink, namespaces, sysfs, files, announcements."""
