"""The runner: it runs the clients through the scenarios, each with its own gateway, and judges their output."""
