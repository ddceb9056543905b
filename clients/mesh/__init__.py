"""`make mesh`: run the clients through real proxies while gateways and proxies fail."""

import sys
from pathlib import Path

# The published Python client; `fleet.py` uses it to watch many jobs at a time.
sys.path.append(str(Path(__file__).resolve().parents[1] / "python" / "src"))
