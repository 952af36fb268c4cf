"""Which model answers: features of an answer, a calibrated probability that it is right, and thresholds."""
