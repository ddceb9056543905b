"""The exit codes."""

SUCCESS = 0
JOB_FAILED = 1
USAGE = 2
"""Also if a server cannot start with its settings."""
CALL_FAILED = 3
OUTPUT_LOST = 4
REFUSED = 5
NOT_PERMITTED = 6
NOT_FOUND = 7
UNAVAILABLE = 8
OUTCOME_UNKNOWN = 9
TIME_PASSED = 124
"""As in timeout(1): `--deadline` or the `--timeout` of `wait` passed first."""
HUNG_UP = 129
INTERRUPTED = 130
BROKEN_PIPE = 141
TERMINATED = 143
"""These four are as in a shell after SIGHUP, SIGINT, SIGPIPE and SIGTERM."""

INTERRUPTS = (HUNG_UP, INTERRUPTED, TERMINATED)
"""The user or the system ended the command."""

EXPLAINED = (
    "Exit codes: 0 success, 1 the job did not succeed, 2 wrong usage or settings, 3 another failure of the call or a "
    "check of `doctor`, 4 the output could not be written, 5 the request was rejected as it is, 6 no valid token or no "
    "permission, 7 no such job or workspace, 8 unavailable or overloaded: try again later, 9 the job may or may not "
    "run: look before you send it again, 124 the time of `--deadline` or of `wait` passed first, 129 "
    "SIGHUP, 130 Ctrl-C, 141 the reader of the output left, 143 SIGTERM. With 4 and 141, standard error names the job "
    "that was sent."
)
