"""Checks of the promises of a watch on recorded histories, and runs that record histories."""
