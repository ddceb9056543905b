"""Run the fuzz targets and the property tests of the wire, two at a time, each for the time that you choose."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import sys
import time
from pathlib import Path

from fuzz import TARGETS

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "fuzz" / "corpus"
GROWN = ROOT / ".fuzz"
PROPERTIES = "tests/system/test_properties.py"
AT_ONCE = 2
# A slower input counts as a finding.
HANG_SECONDS = 10
MAX_INPUT_BYTES = 4_096


async def _run(arguments: list[str], **environment: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode(errors="replace")


async def _fuzz(name: str, seconds: int) -> bool:
    grown = GROWN / name
    grown.mkdir(parents=True, exist_ok=True)
    code, output = await _run(
        [
            *("-m", "fuzz.target", name, str(grown), str(KEPT / name)),
            *(f"-max_total_time={seconds}", f"-timeout={HANG_SECONDS}", f"-max_len={MAX_INPUT_BYTES}"),
            *(f"-dict={KEPT.parent / 'words.dict'}", f"-artifact_prefix={GROWN}/{name}-", "-print_final_stats=1"),
        ]
    )
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", output)
    print(f"{name}: {int(runs[1]) if runs else 0:,} inputs" + (", and a finding" if code else ""), flush=True)
    if code:
        print(output[-6_000:])
        print(f"Keep the input in {KEPT / name} when the fault is fixed; make test runs the inputs there.")
    return code == 0


async def _properties(seconds: int) -> bool:
    ends, rounds, code = time.monotonic() + seconds, 0, 0
    while code == 0 and time.monotonic() < ends:
        code, output = await _run(["-m", "pytest", "-q", PROPERTIES], JOBGATEWAY_PROPERTIES="random")
        rounds += 1
    print(f"properties: {rounds} rounds" + (", and a finding" if code else ""), flush=True)
    if code:
        print(output[-6_000:])
    return code == 0


async def _run_all(names: list[str], seconds: int) -> bool:
    lanes = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> bool:
        async with lanes:
            return await (_fuzz(name, seconds) if name in TARGETS else _properties(seconds))

    return all(await asyncio.gather(*map(one, names)))


def main() -> None:
    """Run the command line. The exit code is 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    every = [*TARGETS, "properties"]
    parser.add_argument("--seconds", type=int, default=60, help="time for each target")
    parser.add_argument("names", nargs="*", help=f"some of: {', '.join(every)}")
    options = parser.parse_args()
    unknown = set(options.names) - set(every)
    if unknown:
        parser.error(f"unknown target: {', '.join(sorted(unknown))}; choose from {', '.join(every)}")
    sys.exit(not asyncio.run(_run_all(options.names or every, options.seconds)))


if __name__ == "__main__":
    main()
