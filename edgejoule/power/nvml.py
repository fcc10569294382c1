"""An NVIDIA GPU's own power readings, through NVML: instant and mean power, and the energy counter.

All that give a value are logged, because they differ: the mean lags by its window, an instant
value may be the mean of a part of its period only (25 ms of 100 ms on A100 and H100, says
"Part-time power measurements", arXiv 2312.02741), and the counter moves in ticks.

         refresh        what a reading is
    gpu_instant    |----|    the board's power of this refresh (field 186)
    gpu_average    |----|    a mean over the last second (field 185, or nvmlDeviceGetPowerUsage)
    gpu_energy     |----|    mJ since the driver was loaded

NVIDIA states no period, so that it is found by watching when values change.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.power import nvml_types as types
from edgejoule.power.nvml_library import Device, Nvml, open_nvml
from edgejoule.power.sensor import Channel, Group, Total

INSTANT, AVERAGE, ENERGY = "gpu_instant", "gpu_average", "gpu_energy"
WATCH_S = 1.0
MIG_PREFIX = "MIG-"
_POLL_S = 0.001
_ENOUGH_CHANGES = 9
_FEWEST_CHANGES = 3
_SWEEPS_PER_REFRESH = 5
_COUNTER_SWEEPS_PER_REFRESH = 2
_UNWATCHED_NS = 20_000_000  # an idle GPU's power may stand still for as long as it is watched
_INVALID_ARGUMENT = 2  # what older drivers answer to a field that they do not know
_USAGE = "nvmlDeviceGetPowerUsage"
_SECOND = "mean over 1 s (NVML API reference)"

Reader = Callable[[], int]


def watch_periods(
    reads: Sequence[Reader],
    seconds: float,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    wait: Callable[[float], None] = time.sleep,
    poll_s: float = _POLL_S,
) -> tuple[int | None, ...]:
    """Return per source the median time between changes of its value, ns.

    None: it changed less than three times, as an idle GPU's power may. The time is known to about
    `poll_s` plus what one round of reads takes; a source that changes at each look changes at least
    as often. Ends early once all sources have changed nine times.

    Args:
        reads: Each returns the present value or raises OSError, which counts as no change.
        seconds: For how long to watch.
        clock_ns: Monotonic, ns.
        wait: Waits some seconds.
        poll_s: How long to wait between two looks.
    """
    last: list[int | None] = [None] * len(reads)
    changes: list[list[int]] = [[] for _ in reads]
    end_ns = clock_ns() + int(seconds * 1e9)
    while clock_ns() < end_ns and any(len(times) < _ENOUGH_CHANGES for times in changes):
        for place, read in enumerate(reads):
            try:
                value = read()
            except OSError:
                continue
            if last[place] is not None and value != last[place]:
                changes[place].append(clock_ns())
            last[place] = value
        wait(poll_s)
    return tuple(_median_interval(times) for times in changes)


def watch_period(
    read: Reader,
    clock_ns: Callable[[], int] = time.monotonic_ns,
    seconds: float = WATCH_S,
    wait: Callable[[float], None] = time.sleep,
) -> int | None:
    """Return the median time between changes of one source's value, ns; see `watch_periods`."""
    return watch_periods([read], seconds, clock_ns, wait)[0]


def _median_interval(times: Sequence[int]) -> int | None:
    if len(times) < _FEWEST_CHANGES:
        return None
    return int(statistics.median(b - a for a, b in itertools.pairwise(times)))


class NvmlSensor:
    """One NVIDIA GPU as a sensor.

    The refresh is watched for (at most `watch_s`) at the first call of `groups` or `configuration`,
    not before: to see whether there is a value costs nothing.

    Args:
        gpu_uuid: Which (`GPU-...`); None: the first one.
        library: NVML's library.
        watch_s: For how long to watch for changes; 0: not at all.
        load: What loads the library.

    Raises:
        UsageError: No such GPU; a MIG slice.
        MeasurementError: No NVML, no GPU, or one that gives no value (a Jetson's).
    """

    name = "nvml"
    simulated = False

    def __init__(
        self,
        gpu_uuid: str | None = None,
        library: str = types.LIBRARY,
        *,
        watch_s: float = WATCH_S,
        load: Callable[[str], Any] = ctypes.CDLL,
    ) -> None:
        _refuse_slice(gpu_uuid)
        self._nvml = open_or_explain(library, load)
        self._channels: list[Channel] = []
        self._readers: list[Reader] = []
        self._left_out: list[dict[str, str]] = []
        self._watch_s = watch_s
        self._periods: tuple[int | None, ...] | None = None
        try:
            self._device, self._chosen = _find(self._nvml, gpu_uuid)
            self._uuid = self._nvml.uuid(self._device)
            if gpu_uuid is None and _or_none(lambda: self._nvml.mig_mode(self._device)):
                _refuse_slice(MIG_PREFIX)
            self._open_channels()
        except types.NvmlError as error:
            self._nvml.close()
            raise MeasurementError(f"NVML cannot read the GPU ({error})", _mend(error)) from error
        except EdgejouleError:
            self._nvml.close()
            raise

    def channels(self) -> tuple[Channel, ...]:
        """The sources that give a value."""
        return tuple(self._channels)

    def groups(self) -> tuple[Group, ...]:
        """Power and the energy counter, each with the shortest refresh that was found.

        Power should be swept five times per refresh: sources that change every 100 and 102 ms
        drift past each other. The counter twice: on an H200 a read of it takes about 3 ms of a
        core, a thousand times what power takes, and it loses nothing by being read seldom; when it
        ticked is then known to half its refresh.
        """
        found = []
        for name, quantity, sweeps in (
            (self._uuid, "power", _SWEEPS_PER_REFRESH),
            (f"{self._uuid} counter", "energy", _COUNTER_SWEEPS_PER_REFRESH),
        ):
            own = [c.index for c in self._channels if c.quantity == quantity]
            known = [p for index in own if (p := self._found_periods()[index]) is not None]
            refresh_ns = min(known, default=None)
            period_ns = _UNWATCHED_NS if refresh_ns is None else refresh_ns // sweeps
            if own:
                found.append(Group(name, tuple(own), refresh_ns, period_ns=period_ns))
        return tuple(found)

    def read(self, index: int) -> int:
        """Return the value of a source now, mW or mJ.

        Raises:
            OSError: ENODATA not supported now, ENODEV the GPU is lost, EACCES no permission,
                ETIMEDOUT, otherwise EIO.
        """
        try:
            return self._readers[index]()
        except types.NvmlError as error:
            raise error.as_os_error() from error

    def configuration(self) -> dict[str, Any]:
        """Return driver, GPU, limits, clocks, the periods found, and what gave no value and why."""
        rails = [channel.rail for channel in self._channels]
        periods = dict(zip(rails, self._found_periods(), strict=True))
        return {
            "chosen": self._chosen,
            **describe(self._nvml, self._device),
            "periods_ns": periods,
            "periods_how": f"median time between changes, watched for at most {self._watch_s} s",
            "left_out": self._left_out,
        }

    def close(self) -> None:
        """Release NVML."""
        self._nvml.close()

    def _found_periods(self) -> tuple[int | None, ...]:
        if self._periods is None:
            reads = [partial(self.read, index) for index in range(len(self._readers))]
            self._periods = watch_periods(reads, self._watch_s)
        return self._periods

    def _open_channels(self) -> None:
        nvml, device = self._nvml, self._device
        self._try(INSTANT, "power", types.FIELD_POWER_INSTANT, None)
        self._try(AVERAGE, "power", types.FIELD_POWER_AVERAGE, _SECOND)
        rails = {channel.rail for channel in self._channels}
        # Without field 185 the older call is left. On GA100 and before it is no mean.
        capability = _or_none(lambda: nvml.compute_capability(device))
        instant = capability is not None and capability <= (8, 0)
        rail = INSTANT if instant else AVERAGE
        if rail not in rails:
            averaging = _SECOND if capability else f"{_SECOND}, instant on GA100 and older"
            self._try(rail, "power", _USAGE, None if instant else averaging)
        self._try(ENERGY, "energy", "nvmlDeviceGetTotalEnergyConsumption", None)
        if not self._channels:
            reasons = "; ".join(f"{item['rail']}: {item['why']}" for item in self._left_out)
            raise MeasurementError(
                f"NVML shows {nvml.name(device)} but gives no power for it ({reasons})",
                "on a Jetson the rails are read through its INA chips: --sensor auto",
            )

    def _try(self, rail: str, quantity: str, source: int | str, averaging: str | None) -> None:
        """Take a source if it gives a value, or fails in a way that may pass."""
        name = f"field {source}" if isinstance(source, int) else source
        try:
            reader = self._reader(source)
            reader()
        except types.NvmlError as error:
            why = {"rail": rail, "source": name, "why": error.name}
            lasting = {_INVALID_ARGUMENT, types.NO_PERMISSION, types.NO_DATA}
            if error.unsupported or error.code in lasting:
                self._left_out.append(why)
                return
            if error.as_os_error().errno == errno.ENODEV:
                raise
        unit = "mW" if quantity == "power" else "mJ"
        self._channels.append(
            Channel(
                len(self._channels), rail, quantity, unit, self._uuid, name,
                sensor=self.name, averaging=averaging,
            )
        )  # fmt: skip
        self._readers.append(reader)

    def _reader(self, source: int | str) -> Reader:
        if isinstance(source, int):
            return self._nvml.field_reader(self._device, source)
        if source == _USAGE:
            return self._nvml.power_reader(self._device)
        return self._nvml.energy_reader(self._device)


def open_or_explain(library: str = types.LIBRARY, load: Callable[[str], Any] = ctypes.CDLL) -> Nvml:
    """Open NVML.

    Raises:
        MeasurementError: It is not here or does not start; says the mend.
    """
    try:
        return open_nvml(library, load)
    except types.NvmlError as error:
        if error.code == types.LIBRARY_NOT_FOUND:
            raise MeasurementError(f"no NVML ({library}) here", _mend(error)) from error
        raise MeasurementError(f"NVML does not start ({error.name})", _mend(error)) from error


def describe(nvml: Nvml, device: Device) -> dict[str, Any]:
    """Return what NVML says of a GPU: plain values, and which are `unavailable` by what error."""
    queries: dict[str, Callable[[], Any]] = {
        "driver": nvml.driver_version,
        "name": partial(nvml.name, device),
        "uuid": partial(nvml.uuid, device),
        "pci_bus_id": partial(nvml.pci_bus_id, device),
        "compute_capability": partial(nvml.compute_capability, device),
        "power_limit_mw": partial(nvml.power_limit_mw, device),
        "enforced_power_limit_mw": partial(nvml.enforced_power_limit_mw, device),
        "default_power_limit_mw": partial(nvml.default_power_limit_mw, device),
        "power_limit_range_mw": partial(nvml.power_limit_range_mw, device),
        "persistence_mode": partial(nvml.persistence_mode, device),
        "mig_mode": partial(nvml.mig_mode, device),
        "temperature_c": partial(nvml.temperature_c, device),
        "clock_reasons": partial(nvml.clock_reasons, device),
    }
    for which in types.CLOCKS:
        queries[f"{which}_clock_mhz"] = partial(nvml.clock_mhz, device, which)
        queries[f"max_{which}_clock_mhz"] = partial(nvml.max_clock_mhz, device, which)
    for which in ("graphics", "memory"):
        asked = partial(nvml.applications_clock_mhz, device, which)
        queries[f"applications_{which}_clock_mhz"] = asked
    found: dict[str, Any] = {}
    unavailable: dict[str, str] = {}
    for name, query in queries.items():
        try:
            value = query()
            found[name] = list(value) if isinstance(value, tuple) else value
        except types.NvmlError as error:
            unavailable[name] = error.name
    return {**found, "unavailable": unavailable}


def nvml_total(rails: Iterable[str]) -> Total | None:
    """Return which of NVML's rails stands for the GPU: the counter, else instant, else mean power.

    Exactly one, since each of them is the whole board's. None: none of them is there.
    """
    there = set(rails)
    for rail in (ENERGY, INSTANT, AVERAGE):
        if rail in there:
            return Total(
                rails=(rail,),
                contains="the GPU board as its driver counts it: chip, memory, regulators",
                excludes="CPU, system memory, fans fed elsewhere, losses of the power supply",
                source="NVML API reference, nvmlDeviceGetPowerUsage (GPU and associated circuitry)",
            )
    return None


def looked_for(
    gpu_uuid: str | None = None,
    library: str = types.LIBRARY,
    load: Callable[[str], Any] = ctypes.CDLL,
) -> list[str]:
    """Return, a line each, what NVML gives here or why not."""
    try:
        sensor = NvmlSensor(gpu_uuid, library, watch_s=0, load=load)
    except EdgejouleError as error:
        return [f"nvml: {error}"]
    lines = []
    with contextlib.closing(sensor):
        for channel in sensor.channels():
            where = f"nvml: {channel.chip} {channel.rail} ({channel.source})"
            try:
                lines.append(f"{where}: {sensor.read(channel.index)} {channel.unit}")
            except OSError as error:
                lines.append(f"{where}: {error.strerror}")
        left_out = sensor.configuration()["left_out"]
    return lines + [f"nvml: {o['rail']} ({o['source']}): none, {o['why']}" for o in left_out]


def _find(nvml: Nvml, gpu_uuid: str | None) -> tuple[Device, str]:
    if gpu_uuid is not None:
        try:
            return nvml.by_uuid(gpu_uuid), "by its UUID"
        except types.NvmlError as error:
            if error.code not in {types.NOT_FOUND, _INVALID_ARGUMENT}:
                raise
        uuids = [nvml.uuid(device) for _, device in nvml.devices()]
        there = ", ".join(uuids) or "none"
        raise UsageError(f"NVML knows no GPU {gpu_uuid}", f"it knows {there}")
    count = nvml.count()
    for index, device in nvml.devices():
        return device, f"NVML's index {index} of {count}, none was named"
    raise MeasurementError(
        f"NVML is here but opens none of its {count} GPUs", "see what `nvidia-smi` says"
    )


def _refuse_slice(gpu_uuid: str | None) -> None:
    if gpu_uuid is not None and gpu_uuid.startswith(MIG_PREFIX):
        raise UsageError(
            "a MIG slice has no power of its own: NVML measures the whole GPU",
            "turn MIG off (`nvidia-smi -mig 0`), take another GPU, or time only: --sensor none",
        )


def _or_none(query: Callable[[], Any]) -> Any:
    try:
        return query()
    except types.NvmlError:
        return None


def _mend(error: types.NvmlError) -> str:
    if error.code == types.LIBRARY_NOT_FOUND:
        return (
            "it comes with NVIDIA's driver; a container needs --gpus and the driver capability "
            "`utility`"
        )
    if error.code == types.LIBRARY_MISMATCH:
        return "the driver was updated while loaded: load it anew or restart the machine"
    if error.code == types.DRIVER_NOT_LOADED:
        return "load NVIDIA's driver (`nvidia-smi` shows what is wrong)"
    if error.code == types.NO_PERMISSION:
        return "this user may not open /dev/nvidia*"
    return "see what `nvidia-smi` and `dmesg` say"
