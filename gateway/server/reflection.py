"""Server reflection: tools such as grpcurl and ghz read the contract from a running gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection

if TYPE_CHECKING:
    from collections.abc import Iterable

    import grpc

SERVICE_NAME = reflection.SERVICE_NAME
"""The full name of the service."""


class _Pool:
    """The default descriptor pool, which also finds methods: ghz requests them by name (grpc/grpc#34743)."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - a method of the pool
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


def enable(names: Iterable[str], server: grpc.aio.Server) -> None:
    """Enable reflection of the services with these full names."""
    reflection.enable_server_reflection(names, server, cast("descriptor_pool.DescriptorPool", _Pool()))
