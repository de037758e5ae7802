"""The life cycle of an attachment: record, removal, delegation to IPAM plugins."""
