"""The command line: the server, a simulated upstream to try it with, and a client of the gateway."""
