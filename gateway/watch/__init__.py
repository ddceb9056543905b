"""The poll hub: one loop per job and credential, however many watch. It knows neither HTTP nor gRPC."""

from gateway.watch.hub import Hub
from gateway.watch.loop import Rules
from gateway.watch.observer import Observer
from gateway.watch.refusals import Refusals, is_uncertain
from gateway.watch.schedule import Cadence
from gateway.watch.sent_jobs import Key, MemorySentJobs, SentJobs
from gateway.watch.watcher import Changed, Quiet, Watcher

__all__ = [
    "Cadence",
    "Changed",
    "Hub",
    "Key",
    "MemorySentJobs",
    "Observer",
    "Quiet",
    "Refusals",
    "Rules",
    "SentJobs",
    "Watcher",
    "is_uncertain",
]
