"""The examples in the help of each command. With `jobgateway dev` beside them, they run as they stand."""

from typing import Any

_JOB = "--workspace 1 --entity 7 --method succeed"

EXAMPLES = {
    "": f"""
# Try it without an account:
jobgateway dev
# In another terminal:
export JOBGATEWAY_TOKEN=demo-token
jobgateway run {_JOB}
""",
    "run": f"""
# Run a job, and print its result:
jobgateway run {_JOB} --param duration=2
# Take the input from standard input, and write the result to a file:
echo '{{"duration": 2}}' |
  jobgateway run {_JOB} \\
    --params-file - > result.json
""",
    "watch": """
# Watch the first job of the simulator:
jobgateway watch 1000001
# Watch two jobs on one stream:
jobgateway watch 1000001 1000002
""",
    "send": f"""
# Send a job now, and watch it later:
uid=$(jobgateway send {_JOB} -o name)
jobgateway watch $uid
# Make it safe to repeat the command:
jobgateway send {_JOB} --request-id order-1
""",
    "get": """
# Show the first job of the simulator:
jobgateway get 1000001
# Write the result to a file if the job has ended:
jobgateway get 1000001 --save result.json
""",
    "wait": """
# Wait for at most a minute. The exit code is 124 if the job has not ended:
jobgateway wait 1000001 --timeout 60
""",
    "cancel": """
# Cancel the first job of the simulator:
jobgateway cancel 1000001
""",
    "ping": """
# Check that the gateway of `jobgateway dev` serves:
jobgateway ping
# Wait until a gateway serves, but not if a setting is wrong:
until jobgateway ping --deadline 2 || [ $? -lt 8 ]; do sleep 1; done
""",
    "doctor": """
# Look for faults, and hold no streams to find time limits:
jobgateway doctor --hold 0
# Also read a job, and print the findings for a program:
jobgateway doctor 1000001 --hold 0 -o json
""",
    "config": """
# Name a gateway, and call it by default:
jobgateway config set dev --target 127.0.0.1:50051
jobgateway config use dev
""",
    "config list": """
# List the contexts, or only their names for a script:
jobgateway config list
jobgateway config list -o name
""",
    "config show": """
# Show which gateway and which credentials commands use:
jobgateway config show
""",
    "config set": """
# Name the gateway of `jobgateway dev`:
jobgateway config set dev --target 127.0.0.1:50051
# Name one with TLS:
jobgateway config set production --target gateway.example.com:443 --tls
""",
    "config use": """
# Name the gateway of `jobgateway dev`, and call it by default:
jobgateway config set dev --target 127.0.0.1:50051
jobgateway config use dev
""",
    "config unset": """
# Create a context with TLS, stop using TLS, and remove the context:
jobgateway config set trial --target 127.0.0.1:50051 --tls
jobgateway config unset trial tls
jobgateway config unset trial
""",
    "config path": """
# Show the file:
jobgateway config path
""",
    "completion": """
# bash, in this session. Put it into ~/.bashrc to keep it:
source <(jobgateway completion bash)
# zsh, from the next session on, if compinit runs:
jobgateway completion zsh > "${fpath[1]}/_jobgateway"
# fish, from the next session on:
jobgateway completion fish > ~/.config/fish/completions/jobgateway.fish
""",
    "serve": """
# Check the settings, without starting:
jobgateway serve --upstream-url https://viktor.example.com/api --check
# Serve a simulated upstream (jobgateway simulate):
jobgateway serve --upstream-url http://127.0.0.1:8080/api
# Read the settings from a file:
echo 'upstream_url = "https://viktor.example.com/api"' > gateway.toml
jobgateway serve --config gateway.toml --check
""",
    "dev": """
# Start on the default port, or on a free one if it is taken:
jobgateway dev
# Choose the port:
jobgateway dev --listen 127.0.0.1:50052
""",
    "simulate": """
# Start a simulated upstream. In another terminal, start a gateway for it:
jobgateway simulate --listen 127.0.0.1:8080
jobgateway serve --upstream-url http://127.0.0.1:8080/api
""",
    "demo": """
# Show everything in 15 seconds:
jobgateway demo
""",
}
"""By command, as lines of a shell; without a name, those of `jobgateway` itself."""


def write_examples(context: Any, formatter: Any) -> None:
    """Write the examples of the command in a context, as the last section of its help."""
    names: list[str] = []
    while context.parent:
        names.insert(0, context.info_name)
        context = context.parent
    if examples := EXAMPLES.get(" ".join(names)):
        with formatter.section("Examples"):
            for line in examples.strip().splitlines():
                # Not wrapped, so that it can be copied.
                formatter.write(f"  {line}\n")
