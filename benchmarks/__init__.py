"""Measures the gateway beside its own floor and a naive one, in one run (README.md)."""
