"""A call, again and again: what replayers whose calls wait for their end are made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from edgejoule.errors import MeasurementError

LAUNCH_NS = 20_000_000


class Loop:
    """Calls something again and again for about 20 ms; see `Repeatable`."""

    def __init__(
        self,
        call: Callable[[], Any],
        executions: int,
        facts: Mapping[str, Any],
        close: Callable[[], None] | None = None,
    ) -> None:
        """Time the call and choose how many make a launch.

        Args:
            call: Executes it and waits for the end.
            executions: How many executions one call is.
            facts: What is known of it.
            close: Gives back what the call holds.
        """
        self._call = call
        self._executions = executions
        self._close = close
        took_ns = []
        for _ in range(3):
            start_ns = time.perf_counter_ns()
            call()
            took_ns.append(time.perf_counter_ns() - start_ns)
        self._calls = max(1, round(LAUNCH_NS / max(1, min(took_ns))))
        self._facts = {**facts, "executions_per_launch": self._calls * executions}

    def launch(self) -> int:
        """Execute it for about 20 ms; return how many times."""
        call = self._call
        for _ in range(self._calls):
            call()
        return self._calls * self._executions

    def facts(self) -> dict[str, Any]:
        """Return what is worth knowing."""
        return dict(self._facts)

    def close(self) -> None:
        """Give everything back."""
        self._call = _closed
        if self._close is not None:
            self._close()
            self._close = None


def _closed() -> None:
    raise MeasurementError("this repetition was closed")
