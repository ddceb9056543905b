"""The poll hub: one loop per job and credential serves all watchers. Independent of HTTP and gRPC."""

from gateway.watch.hub import Hub
from gateway.watch.key import WatchKey
from gateway.watch.loop import PollPolicy
from gateway.watch.observer import PollObserver
from gateway.watch.refusals import Refusals, is_uncertain
from gateway.watch.schedule import PollSchedule
from gateway.watch.sent_jobs import InMemorySentJobs, SentJobs
from gateway.watch.snapshot import LoopSnapshot
from gateway.watch.state import WatchedState
from gateway.watch.watcher import Group, NoChange, Position, StateChange, Subscription, Watcher

__all__ = [
    "Group",
    "Hub",
    "InMemorySentJobs",
    "LoopSnapshot",
    "NoChange",
    "PollObserver",
    "PollPolicy",
    "PollSchedule",
    "Position",
    "Refusals",
    "SentJobs",
    "StateChange",
    "Subscription",
    "WatchKey",
    "WatchedState",
    "Watcher",
    "is_uncertain",
]
