"""The standard health service, with a bound on who watches it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grpc import StatusCode
from grpc_health.v1 import health

if TYPE_CHECKING:
    from grpc_health.v1 import health_pb2

# It asks for no credential, so that anybody could hold as many streams as there is memory for. A balancer has one for
# each of its connections.
MAX_WATCHES = 2_000


class Health(health.aio.HealthServicer):
    """Health by service; at most 2,000 watches at once."""

    def __init__(self) -> None:
        super().__init__()
        self._watching = 0

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """See the service; RESOURCE_EXHAUSTED where there are too many."""
        if self._watching >= MAX_WATCHES:
            await context.abort(StatusCode.RESOURCE_EXHAUSTED, "too many watch the health already; use Check")
        self._watching += 1
        try:
            await super().Watch(request, context)
        finally:
            self._watching -= 1
