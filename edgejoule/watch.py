"""The parent's eyes on a run: live view, resources once a second, the level of power and heat.

It reads the shared page and the tail of `power.bin`; the measured processes do not notice.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.cooldown import Level, recent_power_mw
from edgejoule.errors import EdgejouleError
from edgejoule.live_run import LiveRun, PhaseNow
from edgejoule.machine import temperatures_c
from edgejoule.phases import PageReader, PageState
from edgejoule.report.text import printable
from edgejoule.resources import ResourceSampler

if TYPE_CHECKING:
    from edgejoule.gpu_watch import GpuWatch
    from edgejoule.report.progress import Progress

_RESOURCE_PERIOD_NS = 1_000_000_000
_RATE_WINDOW_NS = 5_000_000_000


class Watch:
    """What the parent looks at four times a second.

    Args:
        directory: The run's working directory.
        progress: What the user sees.
        live: Shows the run; None: `progress` shows phase, rate and time left of the phase.
    """

    def __init__(self, directory: Path, progress: Progress, live: LiveRun | None = None) -> None:
        self.gpu: GpuWatch | None = None
        self._live = live
        self._directory = directory
        self._progress = progress
        self._page = PageReader(directory / "page.bin")
        self._sysfs_root: str | None = None
        self._has_power = False
        self._resources: ResourceSampler | None = None
        self._followed: dict[str, int] = {}
        self._next_resource_ns = 0
        self._pass_inferences: dict[str, int | None] = {}
        self._pass_seconds: dict[str, float] = {}
        self._history: list[tuple[int, int]] = []
        self._phase = ""
        self._phase_since_ns = 0

    def board_is_there(self, sysfs_root: str, *, has_power: bool) -> None:
        """Say where the board's files lie and whether there is a power trace to follow."""
        self._sysfs_root = sysfs_root
        self._has_power = has_power

    def expect(self, phase: str, seconds: float) -> None:
        """Say how long a phase will last, so that the time left can be shown."""
        self._pass_seconds[phase] = seconds

    def follow(self, name: str, pid: int) -> None:
        """Sample the memory of a process too: `measuring` or `sampler`."""
        self._followed[name] = pid

    def forget(self, name: str) -> None:
        """Follow a process no more."""
        self._followed.pop(name, None)

    def see_gpu(self, gpu: GpuWatch) -> None:
        """Follow a GPU too: its figures go into the resources, and who else uses it is noted."""
        self.gpu = gpu

    def see_weights(self, weights: str) -> None:
        """Say whose weights are measured: `pretrained`, `random` or `user`."""
        mark = {"random": "random weights", "user": "user's weights"}.get(weights)
        if self._live is not None and mark is not None:
            self._live.mark(mark)

    def on_message(self, message: dict[str, Any]) -> None:
        """Take the measuring process's word on how long a pass will be."""
        if message["kind"] == "pass":
            name = str(message["name"])
            self._pass_inferences[name] = message.get("inferences")
            self._pass_seconds[name] = float(message.get("estimate_s") or 0.0)
            if self._live is not None:
                self._live.announce(name, message.get("inferences"), self._pass_seconds[name])
            self._progress.line(
                _announced(name, message.get("inferences"), self._pass_seconds[name])
            )
        elif message["kind"] == "note":
            self._progress.line(printable(message.get("text", "")))

    def tick(self, now_ns: int) -> None:
        """Refresh what is shown; once a second write the resources."""
        state = self._page.read()
        if state is not None:
            self._show(state, now_ns)
        if self._sysfs_root is not None and now_ns >= self._next_resource_ns:
            if self._resources is None:
                self._resources = ResourceSampler(
                    self._directory / "resources.bin",
                    sysfs_root=self._sysfs_root,
                    more=dict if self.gpu is None else self.gpu.read,
                )
            for name, pid in self._followed.items():
                self._resources.watch(name, pid)
            row = self._resources.sample(now_ns)
            if self._live is not None:
                self._live.resources(row)
            if self.gpu is not None and "measuring" in self._followed:
                self.gpu.look_during(tuple(self._followed.values()))
                if self.gpu.foreign_looks and self._live is not None:
                    self._live.mark("shared GPU")
            self._next_resource_ns = now_ns + _RESOURCE_PERIOD_NS

    def level(self) -> Level:
        """Return power and temperature now."""
        power_mw = None
        if self._has_power:
            with contextlib.suppress(EdgejouleError, OSError):
                power_mw = recent_power_mw(self._directory / "power.bin")
        zones = {} if self._sysfs_root is None else temperatures_c(self._sysfs_root)
        return Level(power_mw, max(zones.values()) if zones else None)

    def close(self) -> None:
        """Close the view, the page, the resources' file and the GPU's driver."""
        if self._live is not None:
            self._live.close()
        if self.gpu is not None:
            self.gpu.close()
        if self._resources is not None:
            self._resources.close()
        self._page.close()

    def _show(self, state: PageState, now_ns: int) -> None:
        phase = _PART_OF.get(state.phase, state.phase)
        if phase not in {self._phase, "harvest"}:
            self._phase, self._phase_since_ns = phase, state.phase_start_ns
            self._history.clear()
        if state.inference >= 0:
            self._history.append((now_ns, state.inference))
            while self._history[-1][0] - self._history[0][0] > _RATE_WINDOW_NS:
                self._history.pop(0)
        done = self._history[-1][1] + 1 if self._history else 0
        rate_hz = remaining_s = None
        if len(self._history) > 1:
            (t0, n0), (t1, n1) = self._history[0], self._history[-1]
            rate_hz = (n1 - n0) / max(1e-9, (t1 - t0) * 1e-9)
        total = self._pass_inferences.get(self._phase)
        if self._live is not None:
            since_ns = self._phase_since_ns
            self._live.tick(PhaseNow(state.phase, since_ns, done, total, rate_hz), now_ns)
            return
        if total and rate_hz:
            remaining_s = max(0.0, (total - done) / rate_hz)
        elif self._pass_seconds.get(self._phase):
            spent_s = (time.monotonic_ns() - self._phase_since_ns) * 1e-9
            remaining_s = max(0.0, self._pass_seconds[self._phase] - spent_s)
        self._progress.update(phase, done, total, rate_hz, remaining_s, "")


# Passes that are no plain run of inferences: their names, and what is done in them.
_OTHER_PASSES = {
    "observed": ("observer", "sampler and profiler on and off"),
    "replay": ("replay", "each layer alone"),
}
_PART_OF = {"unsampled": "observed"}


def _announced(name: str, count: int | None, seconds: float) -> str:
    """Return what is said of a pass before it begins."""
    if name in _OTHER_PASSES:
        title, what = _OTHER_PASSES[name]
        return f"{title} pass: {what}" + (f", up to {seconds:.0f} s" if seconds else "")
    what = f"{count} inferences" if count else "until steady"
    if not count and seconds:
        what = "as many inferences as there is time for"
    return f"{name} pass: {what}" + (f", about {seconds:.0f} s" if seconds else "")
