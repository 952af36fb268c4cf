"""Signalbox: governed, continuously adapted language models from an organisation's documents, with proofs."""
