"""The recipe `head`: a model that labels, tags, finds or scores, on an encoder or a causal language model."""
