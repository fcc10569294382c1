"""What changes on a machine while it measures: clocks, temperatures, throttling, fan, memory.

Everything is read from sysfs and procfs, nothing is ever written. A piece that is not there is
None or absent, never a guess. Standard library only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_GPU_DEVFREQ = re.compile(r"gpu|gv11b|ga10b|gp10b|57000000")
# Where NVIDIA's kernels have shown the integrated GPU: L4T 32 to 39.
_GPU_PLACES = (
    *("devices/gpu.0", "devices/platform/gpu.0", "devices/*.g*", "devices/platform/*.g*"),
    "devices/platform/bus@0/*.g*",
)
# The memory clock: of NVIDIA's jetson_clocks, and nvpmodel's cap. debugfs is for root.
_EMC_RATES = (
    "kernel/debug/bpmp/debug/clk/emc/rate",
    "kernel/debug/clk/emc/clk_rate",
    "kernel/debug/tegra_bwmgr/emc_rate",
)
_EMC_CAPS = ("kernel/nvpmodel_clk_cap/emc", "kernel/nvpmodel_emc_cap/emc_iso_cap")
# Cooling devices that slow something down whenever they are not at 0. The GPU's devfreq device is
# not among them: it has been seen above 0 on a cool Jetson Thor.
_THROTTLES = re.compile(r"-alert$|^(?:thermal-)?cpufreq|^Processor$|^intel_powerclamp$")
_DESKTOP = frozenset(
    (
        *("Xorg", "Xwayland", "gdm3", "gdm", "sddm", "lightdm", "gnome-shell", "kwin_x11"),
        *("kwin_wayland", "weston", "sway", "xfwm4"),
    )
)


def read_text(path: Path) -> str | None:
    """Return a small file's text without NULs and surrounding space, None if it cannot be read."""
    try:
        # The device tree ends and separates its strings with NUL.
        return path.read_bytes().replace(b"\0", b"\n").decode("utf-8", "replace").strip()
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """Return the integer in a file, None if the file cannot be read or holds none."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


@dataclass(frozen=True)
class Clock:
    """One clock domain; frequencies in MHz, None where the file is missing.

    Attributes:
        name: `cpu0`, or the devfreq device (`17000000.gpu`).
        current_mhz: Now.
        min_mhz: Lower limit in force.
        max_mhz: Upper limit in force.
        governor: Who chooses between the two.
    """

    name: str
    current_mhz: float | None
    min_mhz: float | None
    max_mhz: float | None
    governor: str | None

    @property
    def locked(self) -> bool | None:
        """Whether both limits are the same, which is what `jetson_clocks` does."""
        if self.min_mhz is None or self.max_mhz is None:
            return None
        return self.min_mhz == self.max_mhz


def _scaled(path: Path, divisor: float) -> float | None:
    value = read_int(path)
    return None if value is None else round(value / divisor, 3)


def cpu_numbers(sysfs_root: Path) -> list[int]:
    """Return the numbers of the CPUs that the kernel knows, in order."""
    folder = sysfs_root / "devices/system/cpu"
    found = (re.fullmatch(r"cpu(\d+)", path.name) for path in folder.glob("cpu[0-9]*"))
    return sorted(int(match[1]) for match in found if match)


def cpu_clocks(sysfs_root: Path) -> list[Clock]:
    """Return the clock of each online CPU that has a frequency driver."""
    clocks = []
    for number in cpu_numbers(sysfs_root):
        folder = sysfs_root / f"devices/system/cpu/cpu{number}/cpufreq"
        governor = read_text(folder / "scaling_governor")
        current = _scaled(folder / "scaling_cur_freq", 1e3)
        if governor is None and current is None:
            continue
        low = _scaled(folder / "scaling_min_freq", 1e3)
        high = _scaled(folder / "scaling_max_freq", 1e3)
        clocks.append(Clock(f"cpu{number}", current, low, high, governor))
    return clocks


def cpus_online(sysfs_root: Path | str = "/sys") -> tuple[int, ...] | None:
    """Return the numbers of the CPUs that are online, None if the kernel does not say."""
    text = read_text(Path(sysfs_root, "devices/system/cpu/online"))
    found: set[int] = set()
    for part in (text or "").split(","):
        match = re.fullmatch(r"\s*([0-9]{1,5})(?:-([0-9]{1,5}))?\s*", part)
        if not match:
            return None
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    return tuple(sorted(found))


def gpu_devfreq(sysfs_root: Path | str = "/sys") -> list[Path]:
    """Return the devfreq folders of integrated GPUs (Jetson); names differ by release."""
    folders = sorted(Path(sysfs_root, "class/devfreq").glob("*"))
    return [folder for folder in folders if _GPU_DEVFREQ.search(folder.name)]


def gpu_load_percent(sysfs_root: Path | str = "/sys") -> float | None:
    """Return how busy an integrated GPU (Jetson) is, None where nothing says so.

    The driver's `load` counts thousandths. Jetson Thor has none: there NVML knows the load.
    """
    root = Path(sysfs_root)
    places = [folder / "device" for folder in gpu_devfreq(root)]
    places += [
        path for place in _GPU_PLACES for path in sorted(root.glob(place)) if _gpu_device(path.name)
    ]
    for place in places:
        load = read_int(place / "load")
        if load is not None and 0 <= load <= 1000:
            return load / 10
    return None


def _gpu_device(name: str) -> bool:
    return bool(_GPU_DEVFREQ.search(name))


def emc_clock_mhz(sysfs_root: Path | str = "/sys") -> float | None:
    """Return the memory controller's clock (Jetson), None if it cannot be read; it is for root."""
    return _first_mhz(Path(sysfs_root), _EMC_RATES)


def emc_cap_mhz(sysfs_root: Path | str = "/sys") -> float | None:
    """Return nvpmodel's cap of the memory controller's clock, None if there is none."""
    return _first_mhz(Path(sysfs_root), _EMC_CAPS)


def _first_mhz(root: Path, places: tuple[str, ...]) -> float | None:
    for place in places:
        value = _scaled(root / place, 1e6)
        if value is not None and value > 0:
            return value
    return None


def gpu_clocks(sysfs_root: Path) -> list[Clock]:
    """Return the clocks of integrated GPUs under devfreq (Jetson); names differ by release."""
    clocks = []
    for folder in gpu_devfreq(sysfs_root):
        current = _scaled(folder / "cur_freq", 1e6)
        low = _scaled(folder / "min_freq", 1e6)
        high = _scaled(folder / "max_freq", 1e6)
        clocks.append(Clock(folder.name, current, low, high, read_text(folder / "governor")))
    return clocks


def all_locked(clocks: list[Clock]) -> bool | None:
    """Say whether every clock is locked; None where there is none or one does not say."""
    locks = [clock.locked for clock in clocks]
    if any(lock is False for lock in locks):
        return False
    return True if locks and all(locks) else None


def temperatures_c(sysfs_root: Path | str = "/sys") -> dict[str, float]:
    """Return the temperature of each thermal zone in degrees Celsius.

    A gated zone answers with an error, nothing, or -256: it is left out. Two zones of one type are
    told apart by their number.
    """
    found: dict[str, float] = {}
    zones = Path(sysfs_root, "class/thermal").glob("thermal_zone[0-9]*")
    for zone in sorted(zones, key=lambda path: int(path.name.removeprefix("thermal_zone"))):
        value = read_int(zone / "temp")
        if value is None or value <= -200_000:
            continue
        name = read_text(zone / "type") or zone.name
        if name in found:
            name = f"{name}_{zone.name.removeprefix('thermal_zone')}"
        found[name] = value / 1000
    return found


def throttle_counts(sysfs_root: Path | str = "/sys") -> dict[str, int]:
    """Return counters of throttling events; they only ever grow.

    Jetson: over-current events (`oc1_event_cnt` ...) of the chip `soctherm_oc`. x86: thermal
    throttling of cores and packages, summed over the CPUs (a package counts once per CPU there).
    """
    root = Path(sysfs_root)
    found: dict[str, int] = {}
    for path in sorted(root.glob("class/hwmon/hwmon*/oc*_event_cnt")):
        count = read_int(path)
        if count is not None:
            found[path.name.removesuffix("_event_cnt")] = count
    for kind in ("core", "package"):
        counts = [
            read_int(root / f"devices/system/cpu/cpu{n}/thermal_throttle/{kind}_throttle_count")
            for n in cpu_numbers(root)
        ]
        known = [count for count in counts if count is not None]
        if known:
            found[f"cpu_{kind}"] = sum(known)
    return found


def throttle_times_ms(sysfs_root: Path | str = "/sys") -> dict[str, int]:
    """Return how long CPUs were throttled since boot in ms (x86), of the CPU that was so longest.

    `core` and `package`, from thermal_throttle's `*_throttle_total_time_ms`.
    """
    root = Path(sysfs_root)
    found = {}
    for kind in ("core", "package"):
        name = f"thermal_throttle/{kind}_throttle_total_time_ms"
        times = [read_int(root / f"devices/system/cpu/cpu{n}/{name}") for n in cpu_numbers(root)]
        known = [time for time in times if time is not None]
        if known:
            found[kind] = max(known)
    return found


def cooling_states(sysfs_root: Path | str = "/sys") -> dict[str, int]:
    """Return the state of each cooling device that slows something down; 0 is full speed.

    Jetson: `cpu-throttle-alert`, `gpu-throttle-alert`, `hot-surface-alert` and others; x86:
    `Processor`. Fans are left out, and devices of one type are taken together (the highest state).
    """
    found: dict[str, int] = {}
    for folder in sorted(Path(sysfs_root, "class/thermal").glob("cooling_device[0-9]*")):
        name, state = read_text(folder / "type"), read_int(folder / "cur_state")
        if name and state is not None and _THROTTLES.search(name):
            found[name] = max(state, found.get(name, 0))
    return found


def throttling_now(sysfs_root: Path | str = "/sys") -> list[str] | None:
    """Return what slows something down now, None where no cooling device tells."""
    states = cooling_states(sysfs_root)
    return sorted(name for name, state in states.items() if state > 0) if states else None


@dataclass(frozen=True)
class Fan:
    """A fan: PWM duty from 0 to 255 and speed in rpm, None where not told."""

    name: str
    pwm: int | None
    rpm: int | None


def fans(sysfs_root: Path | str = "/sys") -> list[Fan]:
    """Return the fans that hwmon shows."""
    found = []
    for folder in sorted(Path(sysfs_root, "class/hwmon").glob("hwmon*")):
        pwm, rpm = read_int(folder / "pwm1"), read_int(folder / "fan1_input")
        if pwm is not None or rpm is not None:
            found.append(Fan(read_text(folder / "name") or folder.name, pwm, rpm))
    return found


def desktop_processes(proc_root: Path | str = "/proc") -> list[str]:
    """Return the names of running programs that belong to a desktop session."""
    names = (read_text(path) for path in Path(proc_root).glob("[0-9]*/comm"))
    return sorted({name for name in names if name in _DESKTOP})


def memory_mib(proc_root: Path | str = "/proc") -> dict[str, float]:
    """Return `total`, `available`, `swap_total` and `swap_free` in MiB, as far as they are told."""
    wanted = {
        "MemTotal": "total",
        "MemAvailable": "available",
        "SwapTotal": "swap_total",
        "SwapFree": "swap_free",
    }
    found: dict[str, float] = {}
    for line in (read_text(Path(proc_root, "meminfo")) or "").splitlines():
        match = re.match(r"(\w+):\s+(\d+) kB", line)
        if match and match[1] in wanted:
            found[wanted[match[1]]] = round(int(match[2]) / 1024, 1)
    return found


def resident_mib(pid: int, proc_root: Path | str = "/proc") -> float | None:
    """Return the resident memory of a process in MiB, None if it is gone."""
    for line in (read_text(Path(proc_root, str(pid), "status")) or "").splitlines():
        match = re.match(r"VmRSS:\s+(\d+) kB", line)
        if match:
            return round(int(match[1]) / 1024, 3)
    return None
