"""What the sampler asks of the scheduler: a sharp timer, a place of its own, priority.

Each may be refused (no permission, one CPU, another system); what was had and what was not stands
in the sampler's report. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from dataclasses import asdict, dataclass
from typing import Any

_PR_SET_TIMERSLACK = 29
_TIMER_SLACK_NS = 1000
_NICE = -10


@dataclass(frozen=True)
class Place:
    """Where and how a sampler runs.

    Attributes:
        cpu: The CPU it is pinned to, None if it is not pinned.
        why_cpu: Why it is pinned there, or why not.
        nice: Its nice value.
        why_nice: What was asked, and what came of it.
        real_time: Whether it is scheduled before all ordinary processes (SCHED_RR).
    """

    cpu: int | None
    why_cpu: str
    nice: int
    why_nice: str
    real_time: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def take_place(*, pin: bool = True, short_reads: bool = False) -> Place:
    """Pin this process to one CPU, raise its priority and sharpen its timer, as far as allowed.

    A sampler needs a hundredth of a core; what it costs to be late is the trace. It takes the last
    CPU that it may use: programs that pin themselves begin at the first.

    Args:
        pin: Whether to pin at all.
        short_reads: Whether a read takes no more than some microseconds of the CPU. Then it may be
            scheduled before all ordinary processes: on a machine whose every core is busy a nice
            value alone leaves one sweep in twelve late (`docs/Sampling.md`).
    """
    sharpen_timer()
    cpu, why_cpu = pin_to_last_cpu() if pin else (None, "not asked for")
    real_time = short_reads and go_real_time()
    nice = raise_priority()
    refused = "not allowed to raise it (needs root or CAP_SYS_NICE)"
    why_nice = "raised" if nice <= _NICE else refused
    return Place(cpu, why_cpu, nice, why_nice, real_time)


def go_real_time() -> bool:
    """Be scheduled before all ordinary processes (SCHED_RR, lowest priority); whether allowed.

    Children, if there were any, would be ordinary again.
    """
    if not hasattr(os, "sched_setscheduler"):
        return False
    policy = os.SCHED_RR | getattr(os, "SCHED_RESET_ON_FORK", 0)
    try:
        os.sched_setscheduler(0, policy, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except OSError:
        return False
    return True


def pin_to_last_cpu() -> tuple[int | None, str]:
    """Pin this process to the last CPU that it may use; return which, and why or why not."""
    if not hasattr(os, "sched_setaffinity"):
        return None, "this system has no CPU affinity"
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return None, "there is only one CPU"
    try:
        os.sched_setaffinity(0, {allowed[-1]})
    except OSError as error:
        return None, f"refused: {error.strerror}"
    return allowed[-1], f"the last of {len(allowed)} CPUs"


def keep_off(cpu: int) -> bool:
    """Keep this process off a CPU, if others are left; whether that was done.

    For a measured process whose work is not on the CPU: the sampler then never interrupts it.
    """
    if not hasattr(os, "sched_setaffinity"):
        return False
    others = os.sched_getaffinity(0) - {cpu}
    if not others:
        return False
    try:
        os.sched_setaffinity(0, others)
    except OSError:
        return False
    return True


def raise_priority() -> int:
    """Be scheduled before the workload, where that is allowed (root); return the nice value."""
    if hasattr(os, "setpriority"):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        return os.getpriority(os.PRIO_PROCESS, 0)
    return 0


def sharpen_timer() -> None:
    """Let this process's waits end as near to their time as the kernel can, where it lets us."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, _TIMER_SLACK_NS, 0, 0, 0)
