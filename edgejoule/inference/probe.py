"""Try a library in a process of its own.

The parent of a measurement must not load torch (hundreds of MiB that stay) nor open a GPU, and a
library that crashes on import must not take it along. Standard library only.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

from edgejoule.processes import child_environment

_LIMIT_S = 120.0


@dataclass(frozen=True)
class Probe:
    """What a probe printed as JSON, or the last line of why it failed."""

    facts: dict[str, Any] = field(default_factory=dict)
    error: str = ""


@functools.lru_cache(maxsize=16)
def probe(code: str) -> Probe:
    """Run Python code that prints one JSON object as its last line; the answer is remembered."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Probe(error=f"no answer within {_LIMIT_S:.0f} s")
    except OSError as error:
        return Probe(error=str(error))
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        return Probe(error=lines[-1].strip() if lines else f"it ended with {done.returncode}")
    try:
        facts = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return Probe(error="it printed nothing that can be read")
    return Probe(facts=facts)
