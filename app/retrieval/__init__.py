"""Retrieval: embed a dataset's chunks, publish an index version, search it."""
