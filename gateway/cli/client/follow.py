"""The work of `run` and `watch`: the events of a job until it ends."""

import typer
from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError

from gateway.cli.client import exit_messages, watch_many
from gateway.cli.client.patience import PatientWatch
from gateway.cli.client.request import job_request
from gateway.cli.client.session import Session, session
from gateway.cli.display import results, stream_output
from gateway.cli.display.event_display import Display
from gateway.cli.display.heartbeats import HEARTBEAT_SECONDS
from gateway.cli.display.job_lines import succeeded
from gateway.cli.exit_codes import JOB_FAILED
from gateway.cli.failures.problems import usage_error
from gateway.cli.options.shared import JobOptions, LongCallOptions, OutputOptions
from gateway.cli.output import stdio


def run(job: JobOptions, call: LongCallOptions, shown: OutputOptions) -> None:
    """Send a job and watch it until it ends."""
    with session(call, shown.output, shown.save) as current:
        start = pb.RunJobRequest(request=job_request(job, _stream_format(shown), shown.output))
        follow(current, start, shown, cancel=call.cancel_on_interrupt)


def watch(uids: list[int], call: LongCallOptions, shown: OutputOptions) -> None:
    """Watch jobs until they end."""
    several = list(dict.fromkeys(uids))
    if len(several) > 1:
        if shown.save:
            usage_error("--save is for the result of one job: give one UID", shown.output)
        with session(call, shown.output, uids=several) as current:
            watch_many.follow(current, several, cancel=call.cancel_on_interrupt)
        return
    with session(call, shown.output, shown.save, uids=several) as current:
        start = pb.WatchJobRequest(uid=several[0], content_format=_stream_format(shown))
        follow(current, start, shown, cancel=call.cancel_on_interrupt)


def _stream_format(shown: OutputOptions) -> pb.ContentFormat.ValueType:
    # Only chunks are the upstream's own bytes, regardless of their size.
    return pb.CONTENT_FORMAT_JSON_CHUNKS if shown.wants_result else pb.CONTENT_FORMAT_NONE


def follow(
    current: Session, start: pb.RunJobRequest | pb.WatchJobRequest, shown: OutputOptions, *, cancel: bool
) -> None:
    """Show a job until it ends. Leave the process unless it succeeded.

    `cancel`: Ctrl-C cancels the job.
    """
    sent = start.request if isinstance(start, pb.RunJobRequest) else None
    screen = stream_output.stream_display(shown.output, sent_here=sent is not None)
    events = _events(current, start, screen)
    last = pb.JobEvent()
    current.sent = sent
    try:
        with screen:
            for event in events:
                current.uid = events.uid
                current.note(event)
                if event.job.done:
                    last = event
                    continue
                screen.event(event)
                if not shown.save:
                    # Without a file for the result, no one sees the rest.
                    stdio.check()
            # The trailers that follow the last event say whether it repeats an earlier submission.
            if events.replayed:
                screen.replayed(last.job.uid)
            screen.event(last)
    except KeyboardInterrupt:
        exit_messages.interrupted(current, events.uid, sent, cancel=cancel)
    except GatewayError as error:
        exit_messages.failed(current, error, events.uid, sent, began=events.began)
    save = current.save_command(last.job.uid)
    results.conclude(last, events.result, shown, save, replayed=events.replayed)
    if shown.wants_result and last.job.content_omitted and not events.result:
        exit_messages.result_lost(current)
    if not succeeded(last.job):
        raise typer.Exit(JOB_FAILED)


def _events(current: Session, start: pb.RunJobRequest | pb.WatchJobRequest, screen: Display) -> PatientWatch:
    start.heartbeat_interval.FromSeconds(HEARTBEAT_SECONDS)
    return PatientWatch(current.client, start, current.deadline, screen.retrying)
