"""Versions and aliases of datasets, indexes, models, verdicts and releases; MLflow's runs beside them."""
