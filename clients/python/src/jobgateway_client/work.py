"""The interface between the frame of a watch, and the job or the jobs that are watched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from jobgateway.v1 import job_service_pb2 as pb

    from jobgateway_client.calls import OnClose, Stub
    from jobgateway_client.errors import GatewayError
    from jobgateway_client.many_rules import LoginNeeded
    from jobgateway_client.rules import Retry

Item_co = TypeVar("Item_co", covariant=True)


class Decisions(Protocol):
    """The part of `WatchRules` and `ManyRules` that they have in common.

    Attributes:
        silence: The longest silence of a stream in seconds.

    """

    silence: float

    @property
    def done(self) -> bool:
        """True if there is nothing left to watch."""

    def wants_token(self, error: GatewayError) -> bool:
        """Return True if a fresh token may help after an error of the stream."""


class Work(Protocol[Item_co]):
    """One job, or many jobs on one stream."""

    @property
    def rules(self) -> Decisions:
        """The decisions."""

    def call(self, stub: Stub, token: str | None) -> tuple[Any, OnClose]:
        """Make the next call; return it, and a function to call when it is closed."""

    def take(self, event: pb.JobEvent) -> Item_co | LoginNeeded | None:
        """Note an event; return the item for it, None if there is none, or the need for a fresh token."""

    def without_login(self, needed: LoginNeeded) -> Item_co | None:
        """Return the item for a job whose token was rejected, if there is no other token."""

    def ended(self, error: GatewayError, *, replayed: bool) -> None:
        """Note the end of a stream, its error, and whether its trailers say that the job was sent earlier."""

    def resume(self, error: GatewayError, *, fresh_token: bool) -> Retry | None:
        """Return the next attempt, or None if the error is final. `fresh_token`: one was needed, and there is one."""
