"""Runs the clients through real proxies while gateways and proxies fail; behind `make mesh`."""

import sys
from pathlib import Path

# The published client for asyncio, which follows many jobs at a time.
sys.path.append(str(Path(__file__).resolve().parents[1] / "python" / "src"))
