"""The promises of a watch, stated over recorded histories, and runs that record them."""
