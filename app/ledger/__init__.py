"""Merkle log, signing keys, checkpoints, proofs and their verification."""
