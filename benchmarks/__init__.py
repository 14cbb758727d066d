"""What things cost, timed side by side: ``python -m benchmarks --json FILE``."""
