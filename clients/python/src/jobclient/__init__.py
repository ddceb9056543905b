"""A client of the Job Gateway. `watch` and `watch_aio` are the resuming watch: copy them."""
