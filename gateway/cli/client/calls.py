"""The work of `send`, `get` and `cancel`: one response each."""

from threading import Event

from jobgateway.v1 import job_service_pb2 as pb
from jobgateway_client import GatewayError

from gateway.cli.client import exit_messages, response
from gateway.cli.client.request import job_request
from gateway.cli.client.session import session
from gateway.cli.display.job_lines import show_job
from gateway.cli.display.results import show_name
from gateway.cli.options import shared as opt
from gateway.cli.output import json_output, terminal


def send(job: opt.JobOptions, call: opt.CallOptions, shown: opt.OutputOptions) -> None:
    """Send a job without watching it."""
    with session(call, shown.output, shown.save) as current:
        request = job_request(job, pb.CONTENT_FORMAT_UNSPECIFIED, shown.output)
        current.sent = request
        replayed = Event()
        try:
            sent = current.client.send(request, timeout=current.deadline.left(), on_replayed=replayed.set)
        except KeyboardInterrupt:
            exit_messages.interrupted(current, 0, request, cancel=False)
        except GatewayError as error:
            exit_messages.failed(current, error, 0, request)
        current.uid = sent.uid
        if replayed.is_set():
            terminal.note(terminal.replayed_line(sent.uid))
        show_job(sent)
        response.conclude(current, sent, shown, replayed=replayed.is_set())


def get(uid: int, call: opt.QuickCallOptions, shown: opt.OutputOptions) -> None:
    """Show the current state of a job."""
    with session(call, shown.output, shown.save) as current:
        current.uid = uid
        job = response.read(current, uid)
        show_job(job)
        response.conclude(current, job, shown)


def cancel(uid: int, call: opt.QuickCallOptions, output: opt.Output) -> None:
    """Ask to cancel a job."""
    with session(call, output) as current:
        current.uid = uid
        job = current.client.cancel(uid, timeout=current.deadline.left())
        show_job(job)
        match output:
            case opt.Output.JSON:
                json_output.show_message(job)
            case opt.Output.NAME:
                show_name(uid)
        if not job.done:
            terminal.note(f"the job was asked to cancel and may continue for a while: {current.watch_command(uid)}")
