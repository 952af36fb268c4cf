"""Policies, gates, approvals, promotion and lineage."""
