"""The request for a job, from the options of `send` and `run`."""

from pathlib import Path

from google.protobuf import duration_pb2
from jobgateway.v1 import job_service_pb2 as pb

from gateway.cli.params import ParamsInvalid, read_params
from gateway.cli.session import usage_error


def job_request(
    *,
    workspace: str,
    entity: int,
    method: str | None,
    method_type: str | None,
    editor_session: str | None,
    events: list[str] | None,
    timeout: int | None,
    poll_result: bool | None,
    request_id: str | None,
    param: list[str] | None,
    params: str | None,
    params_file: Path | None,
    content_format: pb.ContentFormat.ValueType,
) -> pb.SendJobRequest:
    """Return the request; what was not given stays unset. Leaves the process where it cannot be made."""
    try:
        request = pb.SendJobRequest(
            workspace_id=workspace,
            entity_id=entity,
            method_name=method,
            method_type=method_type,
            editor_session=editor_session,
            events=events,
            timeout=None if timeout is None else duration_pb2.Duration(seconds=timeout),
            poll_result=poll_result,
            request_id=request_id or "",
            content_format=content_format,
        )
        document = read_params(param or [], params, params_file)
    except ParamsInvalid as error:
        usage_error(str(error))
    except UnicodeEncodeError:
        usage_error("an option holds bytes that are not UTF-8")
    except ValueError:
        usage_error(f"--entity {entity} is larger than any entity")  # protobuf's range check of an int64
    if document is not None:
        request.params_json = document
    return request
