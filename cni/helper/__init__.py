"""The resident helper: has the plugins imported, and forks a child for each call that a launcher hands over.

docs/helper.md is its page, docs/adr/0040-a-helper-that-forks.md the decision.
"""
