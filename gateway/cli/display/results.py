"""The end of a job on standard output, in each of its three contents."""

from pathlib import Path

import typer
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli.options.shared import Output, OutputOptions
from gateway.cli.output import json_output, stdio, terminal


def show_name(uid: int) -> None:
    """Print the uid of a job."""
    typer.echo(uid)


def conclude(
    message: pb.Job | pb.JobEvent,
    result: bytes | bytearray,
    shown: OutputOptions,
    save_command: str,
    *,
    replayed: bool = False,
) -> None:
    """Write the result to its file or to standard output, with JSON as a part of the last `message`.

    `save_command` is for a result that is too large for a terminal.

    Raises:
        OutputLost: The file cannot be written.

    """
    saved = shown.save if shown.save and _saved(result, shown.save) else None
    if shown.output is Output.JSON:
        json_output.show_message(message, result, replayed=replayed, result_file=saved)
    elif shown.output is Output.TEXT and not shown.save:
        terminal.show_result(result, save_command)


def _saved(result: bytes | bytearray, file: Path) -> bool:
    if not result:
        terminal.note(f"there is no result, so {file} was not written")
        return False
    try:
        file.write_bytes(result)
    except OSError as error:
        raise stdio.OutputLost(f"--save {file}", error) from error
    terminal.note(f"result: {len(result):,} {'byte' if len(result) == 1 else 'bytes'} in {file}")
    return True
