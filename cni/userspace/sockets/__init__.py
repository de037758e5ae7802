"""The directories and files of vhost-user sockets."""
