"""Which methods of attribution a run uses: what was asked for, or what its sensor allows.

`proportional` is always there: it costs nothing and assumes nothing but time. `window` needs a
sensor whose refreshes can be seen while they happen: the INA3221, polled irregularly. `replay`
needs a backend that can repeat a layer alone, and any sensor of power. Standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgejoule.errors import UsageError

CHOICES = ("replay", "window", "proportional", "interval")
DEFAULT_REPLAY_BUDGET_S = 60.0
DEFAULT_OBSERVER_S = 8.0
# Sensors by what they allow; of several that are read together each counts.
POLLED = ("ina3221", "simulated")
COUNTERS = ("nvml", "rapl")
REPLAYED = ("torch", "onnxruntime", "tensorrt")


@dataclass(frozen=True)
class Methods:
    """What a run does beside `proportional`.

    Attributes:
        names: Of `CHOICES`, the best first, without `proportional`.
        why: Why these, for people.
        replay_budget_s: Longest replay pass, None: there is none.
        check_attribution: Layers of the duplication check, None: there is none.
    """

    names: tuple[str, ...]
    why: str
    replay_budget_s: float | None = None
    check_attribution: int | None = None

    def __str__(self) -> str:
        """Return what is done and why, for people."""
        parts = [*self.names, "proportional"]
        text = f"{', '.join(parts)} ({self.why})"
        if self.replay_budget_s is None:
            return text
        checked = "" if self.check_attribution is None else ", and as long for the check"
        return f"{text}; replay up to {self.replay_budget_s:g} s{checked}"

    @property
    def energy(self) -> str | None:
        """What `RunConfig.energy` holds."""
        return ",".join(self.names) or None


def resolve_methods(
    asked: str,
    sensor: str,
    backend: str,
    replay_budget_s: float | None = None,
    check_attribution: int | None = None,
) -> Methods:
    """Resolve `--energy`.

    Args:
        asked: `auto`, or methods with commas between.
        sensor: The resolved sensor's name, several with commas, `none` for none.
        backend: The resolved backend's name.
        replay_budget_s: `--replay-budget`, None: not given.
        check_attribution: `--check-attribution`, None: not given.

    Raises:
        UsageError: A method that is not known, or that this sensor or backend cannot give.
    """
    sensors = tuple(sensor.split(","))
    if asked == "auto":
        names, why = _by_sensor(sensors, backend)
        if check_attribution is not None and "replay" not in names and sensor != "none":
            names, why = ("replay", *names), f"{why}; replay for --check-attribution"
    else:
        names, why = _parse(asked), f"{asked.strip()} was asked for"
        _refuse(names, sensors, backend)
    if "replay" not in names:
        for flag, value in (
            ("--replay-budget", replay_budget_s),
            ("--check-attribution", check_attribution),
        ):
            if value is not None:
                raise UsageError(
                    f"{flag} is for the replay pass, and this run has none ({why})",
                    "give --energy replay and a sensor, or leave it out",
                )
        return Methods(names, why)
    budget = DEFAULT_REPLAY_BUDGET_S if replay_budget_s is None else replay_budget_s
    return Methods(names, why, budget, check_attribution)


def _by_sensor(sensors: tuple[str, ...], backend: str) -> tuple[tuple[str, ...], str]:
    if "none" in sensors:
        return (), "no power sensor is read"
    if set(sensors) & set(POLLED):
        return ("window",), "the sensor's refreshes can be polled"
    if set(sensors) & set(COUNTERS):
        if backend in REPLAYED:
            return ("replay",), "the sensor is too slow for anything but layers that repeat alone"
        return (), f"the sensor is too slow for layers, and {backend} cannot repeat them alone"
    return (), "the sensor is too slow for layers; --energy replay repeats each alone"


def _parse(text: str) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(
            f"--energy {text!r} names no method", f"give auto, or of {', '.join(CHOICES)} some"
        )
    for name in names:
        if name not in CHOICES:
            raise UsageError(
                f"--energy: {name!r} is no method of attribution",
                f"give auto, or of {', '.join(CHOICES)} one or more with commas between",
            )
    return tuple(name for name in CHOICES if name in names and name != "proportional")


def _refuse(names: tuple[str, ...], sensors: tuple[str, ...], backend: str) -> None:
    if names and "none" in sensors:
        raise UsageError(
            f"--energy {','.join(names)} needs a power sensor, and none is read",
            "give --sensor, or leave it out",
        )
    if "window" in names and not set(sensors) & set(POLLED):
        raise UsageError(
            f"--energy window: the refreshes of sensor {','.join(sensors)} cannot be polled",
            f"it works with {' and '.join(POLLED)}; give --energy replay",
        )
    if "replay" in names and backend not in REPLAYED:
        raise UsageError(
            f"--energy replay: backend {backend} cannot repeat a layer alone",
            f"it works with {', '.join(REPLAYED)}",
        )
