"""Evaluation: suites, metrics with intervals, paired comparisons."""
