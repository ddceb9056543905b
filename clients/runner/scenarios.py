"""The table of scenarios, as it stands in `clients/scenarios.json`."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

CLIENTS = Path(__file__).resolve().parent.parent
SERVICE_CONFIG = CLIENTS / "service_config.json"
DIRECT_SERVICE_CONFIG = CLIENTS / "service_config_direct.json"

Line = dict[str, Any]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Fault(_Model):
    """Something that happens to the client.

    Attributes:
        when: at the start, once so many lines of a kind were printed (`job`, or `watch.job` for those of a step), or
            once so many bytes went to the client (`bytes`, for `cut` and `restart`).
        kind: what happens; `Stack` plays it.
        by: how it happens: for `end` the name of a gRPC status, for `reset` that of an HTTP/2 error, for `answer` the
            name of a gRPC status or an HTTP status.

    """

    when: Literal["start"] | dict[str, Annotated[int, Field(ge=1)]]
    kind: Literal[
        "cut",
        "swallow",
        "end",
        "reset",
        "answer",
        "restart",
        "drain",
        "upstream_down",
        "upstream_up",
        "expire_token",
    ] = Field(alias="fault")
    by: str = ""

    @property
    def at_bytes(self) -> int | None:
        """After how many bytes it comes, None where something else decides."""
        return None if self.when == "start" else self.when.get("bytes")

    def is_due(self, counts: dict[str, int]) -> bool:
        """Whether its time has come, given how many lines of each kind there were."""
        return self.when == "start" or all(counts.get(kind, 0) >= number for kind, number in self.when.items())


class Pace(_Model):
    """Lets a job go on only when the client has told of it, so that nothing depends on how fast the machine is.

    From a fault on it stands still until the client has resumed and heard something: a client that does not pass its
    token hears the same state again, one that does a heartbeat.

    Attributes:
        by: the kind of line that counts, such as `watch.job`.
        seconds: how much older the job is after each.

    """

    by: str
    seconds: Annotated[float, Field(gt=0)]


class Scenario(_Model):
    """What a client does, what happens to it, and what must be observed.

    Attributes:
        steps: for the client, as clients/README.md says; `{unique}` in them becomes a new id for each run.
        direct: whether the client gets the service config for direct connections, which checks the health of gateways.
        gateway: settings of the gateway beyond the usual ones.
        upstream_delay_seconds: how long each answer of the upstream takes.
        pace: what the job's time goes by; without it time passes as usual.
        expect: patterns that lines match in this order; others may stand between.
        never: patterns that no line may match.
        result: the result at the end, as JSON, where it is not what the steps ask for.
        never_with_service_config: more of these, for clients that read the service config.
        posts: how many submissions reach the upstream.
        posted: what is in the body of each submission.
        asked: a path that is asked for upstream.

    """

    name: Annotated[str, Field(pattern="^[a-z0-9_]+$")]
    about: str
    steps: list[Line]
    faults: list[Fault] = []
    direct: bool = False
    gateway: dict[str, str] = {}
    upstream_delay_seconds: float = 0
    pace: Pace | None = None
    expect: list[Line]
    never: list[Line] = []
    never_with_service_config: list[Line] = []
    result: str = ""
    posts: int = 1
    posted: Line = {}
    asked: str = ""

    def file(self) -> str:
        """The scenario file of one run."""
        return json.dumps({"steps": self.steps}).replace("{unique}", str(uuid.uuid4()))

    @property
    def service_config(self) -> Path:
        """The service config that the client gets."""
        return DIRECT_SERVICE_CONFIG if self.direct else SERVICE_CONFIG

    def params(self) -> Line:
        """The parameters of the job that it sends; empty where it sends none."""
        requests = [step["request"] for step in self.steps if step["do"] == "send"]
        params: Line = requests[0].get("params", {}) if requests else {}
        return params


def load() -> list[Scenario]:
    """The table.

    Raises:
        pydantic.ValidationError: it is not well-formed.

    """
    return [Scenario.model_validate(each) for each in json.loads((CLIENTS / "scenarios.json").read_text())]
