"""Admission control, fair sharing, rates, and the memory of large responses."""
