"""The resident helper. It has imported the plugins, and forks a child for each call that a launcher hands over.

docs/helper.md describes it; docs/adr/0040-a-helper-that-forks.md explains the decision.
"""
