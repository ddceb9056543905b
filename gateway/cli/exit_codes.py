"""The exit codes."""

SUCCESS = 0
JOB_FAILED = 1
USAGE = 2
"""Also if a server cannot start with its settings."""
CALL_FAILED = 3
OUTPUT_LOST = 4
STILL_RUNNING = 124
"""As in timeout(1): the time to wait passed first."""
INTERRUPTED = 130
"""As in a shell after SIGINT."""
BROKEN_PIPE = 141
"""As in a shell after SIGPIPE."""

EXPLAINED = (
    "Exit codes: 0 success, 1 the job did not succeed, 2 wrong usage or settings, 3 the call or a check of `doctor` "
    "failed, 4 the output could not be written, 124 the time of `wait` passed before the job ended, 130 Ctrl-C, 141 "
    "the reader of the output left. With 4 and 141, standard error names the job that was sent."
)
