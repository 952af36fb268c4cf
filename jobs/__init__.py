"""One module per job for ``ray job submit``: parse, build, run, report."""
