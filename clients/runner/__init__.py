"""Runs the clients through the scenarios, each against a gateway of its own, and judges what they print."""
