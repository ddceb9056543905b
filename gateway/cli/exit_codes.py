"""The exit codes."""

SUCCESS = 0
JOB_FAILED = 1
USAGE = 2
"""Of the servers also: they cannot start so."""
CALL_FAILED = 3
OUTPUT_LOST = 4
STILL_RUNNING = 124
"""As of timeout(1): the time to wait was over first."""
INTERRUPTED = 130
"""As of a shell for a process that ended by SIGINT."""
BROKEN_PIPE = 141
"""As of a shell for a process that ended by SIGPIPE."""

EXPLAINED = (
    "Exit codes: 0 success, 1 the job ended otherwise, 2 wrong usage or settings, 3 the gateway or the way to it "
    "failed, 4 the output could not be written, 124 `wait` was over before the job, 130 Ctrl-C, 141 the reader of the "
    "output has left. With 4 and 141, standard error names a job that was sent."
)
