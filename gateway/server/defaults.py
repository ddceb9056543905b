"""Limits and times that are no settings, each with its reason."""

from __future__ import annotations

# Polls at once. The pool has room for them and for one read of each call, so that calls hold back no poll.
POLL_SLOTS = 256
SUBMIT_CONNECTIONS = 1_024
# A POST that meets a connection that the upstream is about to close (after 5 seconds or more, usually) is lost, so its
# idle connections are soon gone. A read is made once more, and each credential has connections of its own, which would
# cost a TLS handshake at nearly every poll. A DELETE takes no connection that was idle for over 4 seconds.
SUBMIT_IDLE_SECONDS = 1.0
READ_IDLE_SECONDS = 60.0
CONNECT_SECONDS = 5.0
# The whole of a large answer takes longer than any silence within it.
TOTAL_TIMEOUT_FACTOR = 30
# What the last answers of a drain have to leave the process.
FLUSH_RESPONSES_SECONDS = 0.5
# How much longer than its grace a stop may take, whatever hangs; each part of it has a shorter limit.
CLOSE_SECONDS = 3.0
# The time that the last log lines have to leave the process.
LAST_LINES_SECONDS = 1.0
# A peer that vanished is gone after a ping and its timeout: 85 seconds. The timeout is TCP_USER_TIMEOUT too, and so the
# longest that a proxy may stop reading; nginx does so while its own client pauses.
PING_EVERY_MS = 20_000
PING_TIMEOUT_MS = 65_000
# Clients may ping this often, with and without calls; who does it more often is cut off with too_many_pings.
CLIENT_PING_MS = 10_000
MAX_RESPONSE_BYTES = 512 << 20
# What all answers over 1 MiB may take at once; at least one of the largest fits.
LARGE_RESPONSES_BYTES = 1 << 30
# What all messages over 256 KiB to callers may take at once; the largest takes it all.
LARGE_MESSAGES_BYTES = 512 << 20
# What HTTP/2 counts of a call's metadata. By itself grpc refuses some of those over 8 KB and all over 16 KB.
MAX_METADATA_BYTES = 16 << 10
# Inputs have 8 MiB of JSON at most; as a Struct, numbers of one digit take five times that.
MAX_REQUEST_BYTES = 48 << 20
# What all requests over 1 MiB may take at once: grpc keeps each until its call ends, of a RunJob for hours.
LARGE_REQUESTS_BYTES = 512 << 20
# Threads that parse large requests, and threads that parse and encode large responses. Separate pools, so that clients
# cannot delay responses with large requests. Few, because Python runs one thread at a time: more would only take time
# from the event loop.
REQUEST_WORKERS = 1
RESPONSE_WORKERS = 3
# Calls that grpc holds before they are looked at: more than all limits of ours can be set to, for beyond it grpc ends
# them with a bare CANCELLED, while ours answer at once with a reason.
PENDING_CALLS = 250_000

OPTIONS = (
    # Two processes on one port would share its calls without knowing.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.keepalive_time_ms", PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    # Without it any ping may go unanswered for a minute, whatever the timeout above says.
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_MS),
    ("grpc.server.max_pending_requests", PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_CALLS),
)
