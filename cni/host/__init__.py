"""The only code that uses the kernel: netlink, namespaces, sysfs, files, announcements."""
