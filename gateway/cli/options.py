"""The options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_TARGET = "127.0.0.1:50051"

_LARGEST_INT64 = 2**63 - 1
LONGEST_DEADLINE = 366 * 86_400
_JOB, _INPUT, _CALL, _OUTPUT = "Job", "Input, in one way", "Call", "Output"

Uid = Annotated[int, typer.Argument(min=1, max=_LARGEST_INT64, metavar="UID", help="The job.", show_default=False)]

Target = Annotated[
    str,
    typer.Option(envvar="JOBGATEWAY_TARGET", metavar="HOST:PORT", help="The gateway.", rich_help_panel=_CALL),
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Take the token from this file instead of the variable JOBGATEWAY_TOKEN.",
        rich_help_panel=_CALL,
        show_default=False,
    ),
]
CallDeadline = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0.1,
        max=LONGEST_DEADLINE,
        metavar="SECONDS",
        help="The longest time that the command may take.",
        rich_help_panel=_CALL,
    ),
]
CancelOnInterrupt = Annotated[
    bool,
    typer.Option(
        "--cancel-on-interrupt",
        help="Cancel the job on Ctrl-C. Without it, the job goes on.",
        rich_help_panel=_CALL,
    ),
]

Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON, one object per line and nothing else.", rich_help_panel=_OUTPUT),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        writable=True,
        help="Write the result to this file: the JSON as the upstream made it, byte for byte.",
        rich_help_panel=_OUTPUT,
        show_default=False,
    ),
]

Workspace = Annotated[str, typer.Option(metavar="ID", help="The workspace.", rich_help_panel=_JOB, show_default=False)]
Entity = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="ID",
        help="The entity in that workspace.",
        rich_help_panel=_JOB,
        show_default=False,
    ),
]
Method = Annotated[
    str | None, typer.Option(metavar="NAME", help="The method of the app.", rich_help_panel=_JOB, show_default=False)
]
MethodType = Annotated[
    str | None, typer.Option(metavar="TYPE", help="The method's type.", rich_help_panel=_JOB, show_default=False)
]
EditorSession = Annotated[
    str | None,
    typer.Option(
        metavar="UUID",
        help="The editor session, which public endpoints require.",
        rich_help_panel=_JOB,
        show_default=False,
    ),
]
Events = Annotated[
    list[str] | None,
    typer.Option(
        "--event", metavar="EVENT", help="An event for the job; repeatable.", rich_help_panel=_JOB, show_default=False
    ),
]
JobTimeout = Annotated[
    int | None,
    typer.Option(
        "--timeout",
        min=1,
        max=86_400,
        metavar="SECONDS",
        help="The longest time that the job may run.",
        rich_help_panel=_JOB,
        show_default=False,
    ),
]
PollResult = Annotated[
    bool | None,
    typer.Option(
        "--poll-result/--no-poll-result",
        help="Whether the upstream waits a while for the end before it answers.",
        rich_help_panel=_JOB,
        show_default=False,
    ),
]
RequestId = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="At most one job runs for one id, so that the command can be repeated; take a UUID.",
        rich_help_panel=_JOB,
        show_default=False,
    ),
]

Param = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="A member of the input; repeatable. VALUE is JSON, or else a text.",
        rich_help_panel=_INPUT,
        show_default=False,
    ),
]
Params = Annotated[
    str | None,
    typer.Option(metavar="JSON", help="The input.", rich_help_panel=_INPUT, show_default=False),
]
ParamsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="The file with the input; - is standard input.",
        rich_help_panel=_INPUT,
        show_default=False,
    ),
]
