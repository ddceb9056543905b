"""Benchmarks of the gateway next to references, in one run (README.md)."""
