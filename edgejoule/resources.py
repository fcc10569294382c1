"""What else the machine did during a run: clocks, temperatures, load, memory, throttling.

The parent samples once a second into `resources.bin` (`records.RESOURCES`): one record per value,
the value as an integer number of thousandths, so that a column may be missing at any instant. The
columns are those that answer when the sampler is made; a value that cannot be read later is left
out. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

from edgejoule.machine_state import (
    cooling_states,
    cpu_clocks,
    cpus_online,
    emc_clock_mhz,
    gpu_clocks,
    gpu_load_percent,
    memory_mib,
    read_text,
    resident_mib,
    temperatures_c,
    throttle_counts,
)
from edgejoule.records import RESOURCES, RecordWriter

THOUSANDTHS = 1000


class ResourceSampler:
    """Append one row of readings to `resources.bin` per call of `sample`.

    Args:
        path: The record file to create.
        sysfs_root: Where sysfs is mounted.
        proc_root: Where procfs is mounted.
        processes: Names of processes whose resident memory gets a column
            (`rss_<name>_mib`); which process that is, `watch` says.
        more: Gives further figures by column name, as a GPU's driver does.
    """

    def __init__(
        self,
        path: Path,
        sysfs_root: Path | str = "/sys",
        proc_root: Path | str = "/proc",
        processes: Iterable[str] = ("measuring", "sampler"),
        more: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self._sysfs = Path(sysfs_root)
        self._proc = Path(proc_root)
        self._more = more
        self._pids: dict[str, int | None] = dict.fromkeys(processes)
        self._busy = _cpu_ticks(self._proc)
        self.columns = [*self._read(), *(f"rss_{name}_mib" for name in self._pids)]
        if self._busy is not None:
            self.columns.append("cpu_busy_percent")
        self._index = {name: position for position, name in enumerate(self.columns)}
        header = [{"name": name, "scale": 1 / THOUSANDTHS} for name in self.columns]
        self._writer = RecordWriter(path, RESOURCES, {"columns": header})

    def watch(self, name: str, pid: int | None) -> None:
        """Say which process `name` is from now on; None: none."""
        if name not in self._pids:
            raise KeyError(name)
        self._pids[name] = pid

    def sample(self, now_ns: int) -> dict[str, float]:
        """Read every column, append what answered, and return it by column name.

        Args:
            now_ns: CLOCK_MONOTONIC of this sample.
        """
        row = self._read()
        for name, pid in self._pids.items():
            rss = None if pid is None else resident_mib(pid, self._proc)
            if rss is not None:
                row[f"rss_{name}_mib"] = rss
        busy = self._busy_percent()
        if busy is not None:
            row["cpu_busy_percent"] = busy
        for name, value in row.items():
            column = self._index.get(name)
            if column is not None:  # a thermal zone may wake up in mid-run: no column for it
                self._writer.write(now_ns, round(value * THOUSANDTHS), column, 0)
        self._writer.tick(now_ns)
        return row

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _read(self) -> dict[str, float]:
        row: dict[str, float] = {}
        cpu = [c.current_mhz for c in cpu_clocks(self._sysfs) if c.current_mhz is not None]
        if cpu:
            row["cpu_mhz_mean"] = fmean(cpu)
        for clock in gpu_clocks(self._sysfs):
            if clock.current_mhz is not None:
                row[f"gpu_mhz_{clock.name}"] = clock.current_mhz
        gpu_load = gpu_load_percent(self._sysfs)
        if gpu_load is not None:
            row["gpu_load_percent"] = gpu_load
        emc = emc_clock_mhz(self._sysfs)
        if emc is not None:
            row["emc_mhz"] = emc
        online = cpus_online(self._sysfs)
        if online is not None:
            row["cpus_online"] = len(online)
        for name, state in cooling_states(self._sysfs).items():
            row[f"throttling_{name}"] = state
        for zone, value in temperatures_c(self._sysfs).items():
            row[f"temperature_{zone}_c"] = value
        for name, count in throttle_counts(self._sysfs).items():
            row[f"throttled_{name}"] = count
        load = (read_text(self._proc / "loadavg") or "").split()
        if load:
            row["load_1min"] = float(load[0])
        memory = memory_mib(self._proc)
        if "available" in memory:
            row["memory_available_mib"] = memory["available"]
        if "swap_free" in memory and "swap_total" in memory:
            row["swap_used_mib"] = memory["swap_total"] - memory["swap_free"]
        row.update(self._more())
        return row

    def _busy_percent(self) -> float | None:
        """Share of all CPU time since the last call that was not idle."""
        last, self._busy = self._busy, _cpu_ticks(self._proc)
        if last is None or self._busy is None:
            return None
        busy, total = self._busy[0] - last[0], self._busy[1] - last[1]
        return 100 * busy / total if total > 0 else None


def _cpu_ticks(proc: Path) -> tuple[int, int] | None:
    """Return busy and total ticks of all CPUs together since the machine started."""
    for line in (read_text(proc / "stat") or "").splitlines():
        if line.startswith("cpu "):
            # The last two fields (guest) are already counted in user and nice.
            ticks = [int(field) for field in line.split()[1:9]]
            return sum(ticks) - sum(ticks[3:5]), sum(ticks)
    return None
