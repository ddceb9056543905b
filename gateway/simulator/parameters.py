r"""The fields of `params` that choose the script of a job.

All are optional. Unknown names are ignored, because `params` is the input of any app. If a known name has an
invalid value, the response is 400 with `{"params": {"<name>": ["..."]}}`.

===================  =================================  ===============  ===================================
name                 value                              default          meaning
===================  =================================  ===============  ===================================
`duration`           seconds, 0 to 86400                2                time until the job ends
`steps`              0 to 10000                         4                progress states, evenly over
                                                                         `duration`
`percentages`        array of number or null, or null   even             one per step, and their number
                                                                         replaces `steps`; null itself: the
                                                                         field is absent
`messages`           array of string                    "Step i of n"    one per step; the last one stays
`message_type`       progress, info, warning, success   progress         of a message that is an object
`message_shape`      string, object                     by `shape`       JSON type of `message`
`shape`              first, second, mixed               second           shape of the job; mixed: first and second
                                                                         in turn
`answer`             uid, url, absolute_url, both       both             how the 201 identifies the job; both:
                                                                         uid, absolute url and status
`hold`               seconds, 0 to 60                   1                how long a POST with `poll_result`
                                                                         waits for the end
`ignore_cancel`      boolean                            false            DELETE returns 204, the job continues
`error_message`      string                             by ending        message of an ending with an error
`invalid_fields`     object, array                      object           JSON type of this field (`user_error`)
`sign_of_end`        none, completed_at, result, error  completed_at     the field by which `unknown_status` shows
                                                                         its end; none: the job never ends
`errors`             any JSON                           flat and nested  body of the 400 (`refuse`)
`result`             any JSON                           `{"data": ...}`  the result, byte for byte
`result_bytes`       0 to 268435456                     0                pads the built result to this size
`result_depth`       0 to 100000                        0                adds a value of so many nested objects
`big_integers`       boolean                            false            adds integers beyond 2^53 and 2^64
`lone_surrogate`     boolean                            false            adds the string "\ud800"
`invalid_utf8`       boolean                            false            adds a string with the byte 0xff
`faults`             array of faults                    none             see `gateway.simulator.faults`
===================  =================================  ===============  ===================================

The five names from `result_bytes` to `invalid_utf8` have no effect if `result` is given.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from gateway.simulator.faults import Fault

MAX_RESULT_BYTES = 256 * 1024 * 1024
"""The highest value of `result_bytes`."""


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """The `params` that the simulator reads. The module docstring explains each."""

    duration: Annotated[float, Meta(ge=0, le=86_400)] = 2.0
    steps: Annotated[int, Meta(ge=0, le=10_000)] = 4
    percentages: list[float | None] | UnsetType | None = UNSET
    messages: list[str] = []
    message_type: Literal["progress", "info", "warning", "success"] = "progress"
    message_shape: Literal["string", "object"] | None = None
    shape: Literal["first", "second", "mixed"] = "second"
    answer: Literal["uid", "url", "absolute_url", "both"] = "both"
    hold: Annotated[float, Meta(ge=0, le=60)] = 1.0
    ignore_cancel: bool = False
    error_message: str | None = None
    invalid_fields: Literal["object", "array"] = "object"
    sign_of_end: Literal["none", "completed_at", "result", "error"] = "completed_at"
    errors: Raw = Raw(b"")
    result: Raw = Raw(b"")
    result_bytes: Annotated[int, Meta(ge=0, le=MAX_RESULT_BYTES)] = 0
    result_depth: Annotated[int, Meta(ge=0, le=100_000)] = 0
    big_integers: bool = False
    lone_surrogate: bool = False
    invalid_utf8: bool = False
    faults: list[Fault] = []

    def step_count(self) -> int:
        """Return the number of progress states: the number of `percentages` if given, else `steps`."""
        return len(self.percentages) if isinstance(self.percentages, list) else self.steps
