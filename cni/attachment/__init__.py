"""The life of an attachment: its record, its removal, and the IPAM that it delegates to."""
