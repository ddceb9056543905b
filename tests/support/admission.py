"""Admission limits for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.limits.admission import AdmissionLimits

LIMITS = AdmissionLimits(
    max_calls=1,
    max_watches=1,
    max_calls_per_credential=None,
    max_watches_per_credential=None,
    calls_per_second=1e6,
    large_requests_bytes=512 << 20,
)


def limits(**changes: Any) -> AdmissionLimits:
    """Return limits of one call and one watch, with changes."""
    return replace(LIMITS, **changes)
