"""Validation of configurations, and the models and schemas that it is generated from."""
