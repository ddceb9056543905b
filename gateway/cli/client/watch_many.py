"""`watch` with several jobs: a line for each and a total, or a table."""

import typer
from google.protobuf.duration_pb2 import Duration
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError, WatchFailed

from gateway.cli.client import exit_messages
from gateway.cli.client.patience import Patience
from gateway.cli.client.session import Session
from gateway.cli.display import many_display
from gateway.cli.exit_codes import CALL_FAILED, JOB_FAILED
from gateway.cli.failures.error_messages import error_lines
from gateway.cli.failures.failure_codes import failure_code
from gateway.cli.options.shared import Output
from gateway.cli.output import stdio


def follow(current: Session, uids: list[int], *, cancel: bool) -> None:
    """Show jobs until each has ended. Leave the process unless all succeeded.

    `cancel`: Ctrl-C cancels the jobs that have not ended.
    """
    # The results of many jobs are of use only to a program.
    content = pb.CONTENT_FORMAT_JSON if current.output is Output.JSON else pb.CONTENT_FORMAT_NONE
    screen = many_display.display(uids, current.output)
    patience = Patience()
    seconds = screen.heartbeat_seconds
    heartbeat = Duration(seconds=seconds) if seconds else None
    items = current.client.watch_all(
        [pb.WatchJobRequest(uid=uid, content_format=content, heartbeat_interval=heartbeat) for uid in uids],
        timeout=current.deadline.left(),
        on_retry=patience.limiting(screen.retrying),
    )
    pending = dict.fromkeys(uids)
    codes: set[int] = set()
    try:
        with screen, items:
            for item in items:
                patience.heard()
                if isinstance(item, WatchFailed):
                    pending.pop(item.uid)
                    codes.add(failure_code(item.error))
                    screen.failed(item, _lines(item, current))
                else:
                    if item.job.done:
                        pending.pop(item.uid)
                    screen.event(item, items.result(item.uid) if item.job.done else b"")
                stdio.check()
    except KeyboardInterrupt:
        exit_messages.interrupted_many(current, list(pending), cancel=cancel)
    except GatewayError as error:
        exit_messages.failed_many(current, error, list(pending), began=patience.knows_gateway)
    if codes:
        raise typer.Exit(codes.pop() if len(codes) == 1 else CALL_FAILED)
    if screen.tally.unsuccessful:
        raise typer.Exit(JOB_FAILED)


def _lines(failed: WatchFailed, current: Session) -> list[str]:
    """Return the error of one job in lines."""
    error = failed.error
    lines = error_lines(error, current.target)
    if error.reason == "RESULT_TOO_LARGE":
        lines.append(f"  get it with: {current.save_command(failed.uid)}")
    subject = f"job {failed.uid}: "
    return [subject + lines[0].removeprefix(subject), *lines[1:]]
