"""Benchmarks: ratios between programs that were measured in one run. No test asserts a time."""
