"""The poll hub: one loop per job and credential, however many watch. It knows neither HTTP nor gRPC."""

from gateway.watch.cadence import Cadence
from gateway.watch.hub import Hub, Key
from gateway.watch.loop import Rules
from gateway.watch.observer import Observer
from gateway.watch.token import ResumePoint, read_token, write_token
from gateway.watch.watcher import Changed, Quiet, Watcher

__all__ = [
    "Cadence",
    "Changed",
    "Hub",
    "Key",
    "Observer",
    "Quiet",
    "ResumePoint",
    "Rules",
    "Watcher",
    "read_token",
    "write_token",
]
