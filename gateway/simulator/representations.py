"""The JSON of a simulated job, in both shapes that the REST API uses."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from msgspec import UNSET, Raw

from gateway.simulator.parameters import Parameters
from gateway.simulator.results import result_json
from gateway.simulator.script import Ending, JobScript, State

UNKNOWN_WORD = "archived"
"""The status of `unknown_status`; the API's documentation does not list it."""

_FIRST_STATUS = {
    Ending.SUCCEED: "success",
    Ending.FAIL: "error",
    Ending.USER_ERROR: "error_user",
    Ending.TIMEOUT: "error_timeout",
    Ending.STOP: "stopped",
    Ending.CANCEL: "stopped",
    Ending.EXPIRE: "expired",
    Ending.RELOAD: "error_app_reloading",
    Ending.UNKNOWN_STATUS: UNKNOWN_WORD,
}
_SECOND_STATUS = {
    Ending.SUCCEED: "success",
    Ending.STOP: "cancelled",
    Ending.CANCEL: "cancelled",
    Ending.UNKNOWN_STATUS: UNKNOWN_WORD,
}
# Type and message of the error. Other endings have no error.
_ERRORS = {
    Ending.FAIL: ("error_code", "ZeroDivisionError: division by zero"),
    Ending.USER_ERROR: ("error_user", "The width must be larger than 0."),
    Ending.TIMEOUT: ("error_timeout", "The job took longer than its timeout."),
    Ending.STOP: ("stopped", "The job was stopped."),
    Ending.EXPIRE: ("expired", "The job expired before it was run."),
    Ending.RELOAD: ("error_app_reloading", "The app is reloading."),
}
_UNKNOWN_ERROR = ("error_archived", "The job was archived.")
_STACK_TRACE = {"frames": [{"file": "app.py", "line": 12, "function": "calculate"}]}
_INVALID_FIELD = {"name": "width", "message": "Must be larger than 0."}


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job at one moment, to be encoded.

    Attributes:
        uid: uid of the job.
        parameters: the choices of the client.
        script: script of the job.
        state: its present state.
        started: creation time, in seconds since the epoch.

    """

    uid: int
    parameters: Parameters
    script: JobScript
    state: State
    started: float

    def first_shape(self) -> dict[str, object]:
        """Return the job with the status words and the field names of the first shape."""
        job: dict[str, object] = {"uid": self.uid, "kind": "result"}
        ending = self.state.ending
        job["status"] = "message" if ending is None else _FIRST_STATUS[ending]
        if ending is None:
            return job | self._message("string")
        if self._shows_result():
            job["content"] = Raw(result_json(self.parameters))
        if error := self._error():
            job["error_message"] = error[1]
        if ending is Ending.FAIL:
            job["error_stack_trace"] = _STACK_TRACE
        if ending is Ending.USER_ERROR:
            job["invalid_fields"] = self._invalid_fields()
        return job | self._completed(shown=ending is Ending.UNKNOWN_STATUS)

    def second_shape(self) -> dict[str, object]:
        """Return the job with the status words and the field names of the second shape."""
        job: dict[str, object] = {"uid": self.uid, "kind": "result"}
        ending = self.state.ending
        job["status"] = "running" if ending is None else _SECOND_STATUS.get(ending, "failed")
        if ending is None:
            return job | self._message("object")
        if self._shows_result():
            job["result"] = Raw(result_json(self.parameters))
        if error := self._error():
            fields = {"invalid_fields": self._invalid_fields()} if ending is Ending.USER_ERROR else {}
            job["error"] = {"type": error[0], "message": error[1], **fields}
        return job | self._completed(shown=True)

    def _message(self, shape: str) -> dict[str, object]:
        step = self.state.step
        if step is None:
            return {"message": None}
        text = self._text(step)
        if (self.parameters.message_shape or shape) == "string":
            return {"message": text}
        message: dict[str, object] = {
            "message_type": self.parameters.message_type,
            "message": text,
            "timestamp_epoch": self.started + self.state.since,
        }
        percentages = self.parameters.percentages
        if percentages is UNSET:
            message["percentage"] = 100 * step / self.script.steps
        elif isinstance(percentages, list):
            message["percentage"] = percentages[step]
        return {"message": message}

    def _text(self, step: int) -> str:
        if messages := self.parameters.messages:
            return messages[min(step, len(messages) - 1)]
        return f"Step {step + 1} of {self.script.steps}"

    def _shows_result(self) -> bool:
        return self.state.ending is Ending.SUCCEED or self._sign("result")

    def _sign(self, sign: str) -> bool:
        return self.state.ending is Ending.UNKNOWN_STATUS and self.parameters.sign_of_end == sign

    def _error(self) -> tuple[str, str] | None:
        ending = self.state.ending
        error = _UNKNOWN_ERROR if self._sign("error") else _ERRORS.get(ending) if ending else None
        if error is None or self.parameters.error_message is None:
            return error
        return error[0], self.parameters.error_message

    def _invalid_fields(self) -> object:
        if self.parameters.invalid_fields == "array":
            return [_INVALID_FIELD]
        return {_INVALID_FIELD["name"]: [_INVALID_FIELD["message"]]}

    def _completed(self, *, shown: bool) -> dict[str, object]:
        hidden = self.state.ending is Ending.UNKNOWN_STATUS and not self._sign("completed_at")
        if hidden or not shown:
            return {}
        at = datetime.fromtimestamp(self.started + self.state.since, UTC)
        return {"completed_at": at.isoformat().replace("+00:00", "Z")}
