"""Runs the clients through the scenarios, each against a gateway and a simulator of its own, and judges what they print."""
