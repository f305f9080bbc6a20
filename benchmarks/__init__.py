"""Side-by-side tables; each is one command: python -m benchmarks.NAME."""
