"""The node configuration: its model, its values, and how a call reads it."""
