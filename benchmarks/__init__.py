"""One module per question: `python -m benchmarks.NAME [--out FILE.json]` prints a table and writes its figures."""
