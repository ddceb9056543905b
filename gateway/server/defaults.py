"""Limits and times that are not settings, with their reasons."""

from __future__ import annotations

# Concurrent polls. The connection pool is large enough for them and one read per call, so calls do not delay polls.
POLL_SLOTS = 256
SUBMIT_CONNECTIONS = 1_024
# A POST on a connection that the upstream is closing has an unknown outcome. Upstreams close idle connections after 5
# seconds or more, so those of submissions are closed first, except HTTP/2 (docs/internals/decisions/0017). Reads are
# repeated (0005).
SUBMIT_IDLE_SECONDS = 1.0
# Less than the 60 seconds after which common load balancers close.
READ_IDLE_SECONDS = 50.0
CONNECT_SECONDS = 5.0
# A large response takes longer in total than the longest silence within it.
TOTAL_TIMEOUT_FACTOR = 30
# A claim of a request id outlasts the longest submission by this, because both are timed from different moments.
CLAIM_MARGIN_SECONDS = 2.0
# The time for the last responses of a drain to leave the process.
FLUSH_RESPONSES_SECONDS = 0.5
# The longest time of a stop after its grace, even if something hangs. Each step has a shorter limit.
CLOSE_SECONDS = 3.0
# The time for the last log lines to leave the process.
LAST_LINES_SECONDS = 1.0
# A peer that vanished is detected after a ping and its timeout: 85 seconds. The timeout is also TCP_USER_TIMEOUT, the
# longest pause of a peer that stops reading, as nginx does while its own client pauses.
PING_EVERY_MS = 20_000
PING_TIMEOUT_MS = 65_000
# The shortest interval of pings by clients, with and without calls. More pings end the connection: too_many_pings.
CLIENT_PING_MS = 10_000
MAX_RESPONSE_BYTES = 512 << 20
# Memory of all upstream responses over 1 MiB. At least one of the largest fits.
LARGE_RESPONSES_BYTES = 1 << 30
# Memory of all messages over 256 KiB to clients. The largest one takes all of it.
LARGE_MESSAGES_BYTES = 512 << 20
# The size of a call's metadata, as HTTP/2 counts it. By default, grpc rejects some over 8 KB and all over 16 KB.
MAX_METADATA_BYTES = 16 << 10
# Inputs have at most 8 MiB of JSON. As a Struct, numbers of one digit need five times as much.
MAX_REQUEST_BYTES = 48 << 20
# Memory of all requests over 1 MiB. grpc keeps a request until its call ends, which may take hours for RunJob.
LARGE_REQUESTS_BYTES = 512 << 20
# Threads that parse large requests, and threads that parse and encode large responses. Separate pools, so that clients
# cannot delay responses with large requests. Few, because Python runs one thread at a time: more would only take time
# from the event loop.
REQUEST_WORKERS = 1
RESPONSE_WORKERS = 3
# Calls that wait in grpc, more than the gateway's own limits can be set to: over this number, grpc ends calls with
# CANCELLED and no reason, but the gateway's limits reject them with a reason.
PENDING_CALLS = 250_000

OPTIONS = (
    # With port reuse, two processes on one port would share its calls unnoticed.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.keepalive_time_ms", PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    # Without this option, the reply to a ping may take a minute, regardless of the timeout above.
    ("grpc.http2.ping_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PING_MS),
    ("grpc.server.max_pending_requests", PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", 2 * PENDING_CALLS),
)
