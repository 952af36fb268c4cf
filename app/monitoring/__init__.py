"""Watches the request log: signals, baselines, drift, and the scheduled monitor that starts retraining."""
