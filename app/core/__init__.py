"""The bottom layer: errors, settings, digests, workspace, database, artifact store, clocks."""
