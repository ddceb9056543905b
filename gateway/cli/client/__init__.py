"""The work of the commands that call a gateway."""
