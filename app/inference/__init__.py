"""Inference: the text engines, the encoder and the extractive reader that synthesis, evaluation and serving share."""
