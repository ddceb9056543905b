"""The request for a job, made from the options of `send` and `run`."""

from google.protobuf import duration_pb2
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli.failures.problems import usage_error
from gateway.cli.options.params import ParamsInvalid, read_params
from gateway.cli.options.shared import JobOptions, Output


def job_request(job: JobOptions, content_format: pb.ContentFormat.ValueType, output: Output) -> pb.SendJobRequest:
    """Return the request; options that were not given stay unset. Leave the process if the options are invalid."""
    try:
        request = pb.SendJobRequest(
            workspace_id=job.workspace,
            entity_id=job.entity,
            method_name=job.method,
            method_type=job.method_type,
            editor_session=job.editor_session,
            events=job.events,
            timeout=None if job.timeout is None else duration_pb2.Duration(seconds=job.timeout),
            poll_result=job.poll_result,
            request_id=job.request_id or "",
            content_format=content_format,
        )
        document = read_params(job.param or [], job.params, job.params_file)
    except ParamsInvalid as error:
        usage_error(str(error), output)
    except UnicodeEncodeError:
        usage_error("an option has bytes that are not UTF-8; write it in UTF-8", output)
    if document is not None:
        request.params_json = document
    return request
