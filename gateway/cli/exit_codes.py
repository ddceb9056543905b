"""The exit codes."""

SUCCESS = 0
JOB_FAILED = 1
USAGE = 2
"""Also if a server cannot start with its settings, or if those of the connection do not fit the gateway."""
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

MEANINGS = {
    SUCCESS: "success",
    JOB_FAILED: "the job did not succeed",
    USAGE: "wrong usage or settings, such as `--tls` for a gateway without TLS",
    CALL_FAILED: "another failure of the call or a check of `doctor`",
    OUTPUT_LOST: "the output could not be written",
    REFUSED: "the request was rejected as it is",
    NOT_PERMITTED: "no valid token or no permission",
    NOT_FOUND: "no such job or workspace",
    UNAVAILABLE: "unavailable or overloaded: try again later",
    OUTCOME_UNKNOWN: "the job may or may not run: look before you send it again",
    TIME_PASSED: "the time of `--deadline` or of `wait` passed first",
    HUNG_UP: "SIGHUP",
    INTERRUPTED: "Ctrl-C",
    BROKEN_PIPE: "the reader of the output left",
    TERMINATED: "SIGTERM",
}
REMARK = (
    "With 4 and 141, standard error names the job that was sent. "
    "With 129, 130 and 143, the command died of the signal after cleaning up, so that the loop of a shell ends, too."
)
EXPLAINED = f"Exit codes: {', '.join(f'{code} {meaning}' for code, meaning in MEANINGS.items())}. {REMARK}"
