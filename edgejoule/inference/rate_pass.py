"""The rate pass: one inference per frame of a camera, at absolute times.

due 0        due 1        due 2        due 3        a frame that comes while one is in work
  |[ inf 0 ]   |[ inference 1    ..... ]|[ inf 3 ]   is dropped

There is no burst to catch up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgejoule.inference.passes import Runner


@dataclass(frozen=True)
class RateResult:
    """The rate pass: frames as a camera gives them.

    Attributes:
        rate_hz: Frames per second that were due.
        frames: How many frames were due.
        inferences: How many were taken up.
        dropped: Frames that came while the one before was still in work.
        missed_deadlines: Inferences that ended after the next frame was due.
        seconds: From the first frame's due time to the end of the last period.
        busy_percent: Share of that time within inferences.
        median_ms: Median latency.
        late_us: Median from when a frame was due to the start of its inference.
        late_max_us: The largest.
    """

    rate_hz: float
    frames: int
    inferences: int
    dropped: int
    missed_deadlines: int
    seconds: float
    busy_percent: float
    median_ms: float
    late_us: float
    late_max_us: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def rate_pass(
    runner: Runner, infer: Callable[[int], None], *, rate_hz: float, seconds: float
) -> RateResult:
    """Run one inference per frame of a camera, at absolute times; sleep in between.

    A frame that comes while the one before is in work is dropped, as a camera's would be: there
    is no burst to catch up.
    """
    frames = max(1, round(rate_hz * seconds))
    begin_ns = time.monotonic_ns() + 2_000_000
    latencies: list[int] = []
    late: list[int] = []
    missed = dropped = frame = 0
    while frame < frames:
        due_ns = begin_ns + round(frame * 1e9 / rate_hz)
        runner.sleep_until(due_ns)
        start_ns, end_ns = runner.run("rate", len(latencies), infer, due_ns)
        latencies.append(end_ns - start_ns)
        late.append(start_ns - due_ns)
        after = frame + 1
        if end_ns > begin_ns + round(after * 1e9 / rate_hz):
            missed += 1
            after = max(after, math.ceil((end_ns - begin_ns) * rate_hz / 1e9))
            dropped += min(after, frames) - frame - 1
        frame = after
    # The last period belongs to the last frame: energy per frame is over whole periods.
    finish_ns = max(begin_ns + round(frames * 1e9 / rate_hz), time.monotonic_ns())
    runner.sleep_until(finish_ns)
    length_ns = finish_ns - begin_ns
    return RateResult(
        rate_hz=rate_hz,
        frames=frames,
        inferences=len(latencies),
        dropped=dropped,
        missed_deadlines=missed,
        seconds=round(length_ns / 1e9, 3),
        busy_percent=round(100.0 * sum(latencies) / length_ns, 3),
        median_ms=median(latencies) / 1e6,
        late_us=median(late) / 1e3,
        late_max_us=max(late) / 1e3,
    )
