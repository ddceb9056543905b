"""The command `doctor`. The checks are imported when it runs, because their imports would slow other commands down."""

from typing import Annotated

import typer

from gateway.cli.exit_codes import CALL_FAILED, INTERRUPTS, NOT_PERMITTED
from gateway.cli.failures.problems import output_lost, usage_error
from gateway.cli.options import shared as opt
from gateway.cli.output import stdio

LONGEST_HOLD = 86_400
DEFAULT_HOLD = 70.0

OptionalUid = Annotated[
    int | None,
    typer.Argument(min=1, max=opt.MAX_INT64, metavar="UID", help="A job to read.", show_default=False),
]
Hold = Annotated[
    float,
    typer.Option(
        min=0,
        max=LONGEST_HOLD,
        metavar="SECONDS",
        help="How long to hold silent streams, to find time limits up to this; 0 leaves it out.",
    ),
]


def doctor(
    call: opt.ConnectionOptions,
    uid: OptionalUid = None,
    hold: Hold = DEFAULT_HOLD,
    *,
    shown: opt.ReportOptions,
) -> None:
    """Find the fault between this machine and a gateway: name, TLS, credential, proxies and their limits.

    It sends no job. The exit code is 3 if a check fails. See docs/operations/doctor.md.
    """
    import asyncio

    from gateway.cli.client.credentials import TlsUnusable, TokenUnusable, given_token, tls, token_given
    from gateway.cli.doctor.endpoint import Endpoint
    from gateway.cli.doctor.examination import CheckedGateway, Examination
    from gateway.cli.doctor.repeat import Repeat
    from gateway.cli.doctor.report import Report
    from gateway.cli.options.targets import TargetUnusable

    output = shown.output
    try:
        token = given_token(call) if token_given(call) else None
        gateway = CheckedGateway(Endpoint.of(call.target), call, tls(call), token, uid, hold)
        report = Report(as_json=output == "json")
        examination = Examination(gateway, Repeat(call, uid), report.progress)
    except (TargetUnusable, TlsUnusable) as error:
        usage_error(str(error), opt.Output(output))
    except TokenUnusable as error:
        usage_error(str(error), opt.Output(output), NOT_PERMITTED)
    with report:

        async def run() -> None:
            async for finding in examination.run():
                report.show(finding)
                stdio.check()

        code = CALL_FAILED
        try:
            with stdio.interruptible():
                asyncio.run(run())
            report.conclude()
            stdio.check()
        except KeyboardInterrupt:
            code = stdio.interrupt_code()
            if known := examination.interrupted():
                report.show(known)
            report.conclude()
        except stdio.OutputLost as error:
            raise typer.Exit(output_lost(error)) from error
        if report.failed or code in INTERRUPTS:
            raise typer.Exit(code)
