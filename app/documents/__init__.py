"""Documents: read a folder, convert each file in a sandbox, cut it into chunks, publish a dataset version."""
