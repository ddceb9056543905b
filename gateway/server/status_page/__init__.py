"""The status page: the present state of a gateway, as HTML (`/`) and JSON (`/statusz`)."""
