"""A recipe's settings, searched: a space in YAML, trials on held-out rows, the best trained as any other."""
