"""The machines of lane 2: each is booted once, runs its scenarios and leaves their results.

A boot takes 10 to 60 s. What can be judged is judged here, on the host, where numpy is.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgejoule.energy.trace import RailPower, rail_powers_of_samples, read_samples

HERE = Path(__file__).resolve().parent
TOOLS = ("qemu-system-aarch64", "dtc", "fdtoverlay", "cpio", "aarch64-linux-gnu-gcc")
STEPS_MV, STEPS_UV = 8, 40


@dataclass(frozen=True)
class Machine:
    """A board, whose driver it has, and what is done there."""

    board: str
    driver: str
    scenarios: tuple[str, ...]
    blocking: bool = False
    chips: tuple[str, ...] = ("1-0040",)


_EVERYWHERE = (
    "rails",
    "values",
    "switched_off",
    "shunts",
    "settings",
    "put_back",
    "moving",
    "rebinding",
)
MACHINES = {
    "orin-nano": Machine(
        "orin-nano", "6.1", (*_EVERYWHERE, "moving_attribution", "pulses", "cpu", "gone_for_good")
    ),
    "agx-orin": Machine(
        "agx-orin", "6.1", (*_EVERYWHERE, "moving_attribution"), chips=("1-0040", "1-0041")
    ),
    "blocking": Machine("orin-nano", "5.10", (*_EVERYWHERE, "no_conversion"), blocking=True),
    "single-shot": Machine("single-shot", "6.1", (*_EVERYWHERE, "no_conversion"), blocking=True),
}


def on(*names: str) -> pytest.MarkDecorator:
    """Run a test on these machines, or on all."""
    return pytest.mark.parametrize("booted", names or tuple(MACHINES), indirect=True)


@dataclass(frozen=True)
class Booted:
    """What a machine left."""

    machine: Machine
    folder: Path

    def result(self, name: str) -> dict[str, Any]:
        """Return what a scenario found; its failure in the guest is the test's."""
        found = json.loads((self.folder / f"{name}.json").read_text())
        if "failed" in found:
            pytest.fail(f"in the guest: {found['failed']}", pytrace=False)
        return found  # type: ignore[no-any-return]

    def samples(self, name: str) -> tuple[list[dict[str, Any]], npt.NDArray[Any]]:
        """Return channels and records of a scenario's trace."""
        header, samples = read_samples(self.folder / name / "power.bin")
        return header["channels"], samples

    def rails(self, name: str) -> dict[str, RailPower]:
        """Return the power of each rail in a scenario's trace."""
        return rail_powers_of_samples(*self.samples(name))

    def table(self, name: str, chip: str) -> Table:
        """Return what a chip played in a scenario."""
        return read_table(self.folder / name / f"{chip}.table")


@dataclass(frozen=True)
class Table:
    """A table of conversions as it was played (`guest/chip.py`): the truth.

    Attributes:
        start_ns: Begin of the first cycle.
        period_ns: From one cycle to the next.
        complete_ns: (6,) when in its cycle each register gets its value.
        steps: int (cycles, 6): shunt and bus of channel 1, 2, 3.
    """

    start_ns: int
    period_ns: int
    complete_ns: npt.NDArray[np.int64]
    steps: npt.NDArray[np.int64]

    def cycle(self, register: int, at_ns: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return which cycle's value register 0 to 5 shows at a time; negative: none yet."""
        since = np.asarray(at_ns, np.int64) - self.start_ns - self.complete_ns[register]
        cycle: npt.NDArray[np.int64] = np.minimum(since // self.period_ns, len(self.steps) - 1)
        return cycle

    def energy_mj(self, channel: int, shunt_uohm: int, start_ns: int, end_ns: int) -> float:
        """Return the energy that channel 1 to 3 showed between two times, exactly."""
        cycles = np.arange(len(self.steps)) * self.period_ns + self.start_ns
        shunt, bus = 2 * channel - 2, 2 * channel - 1
        changes = np.concatenate([cycles + self.complete_ns[shunt], cycles + self.complete_ns[bus]])
        inside = changes[(changes > start_ns) & (changes < end_ns)]
        edges = np.unique(np.concatenate([[start_ns], inside, [end_ns]]))
        ma = self.steps[self.cycle(shunt, edges[:-1]), shunt] * STEPS_UV * 1000.0 / shunt_uohm
        mv = self.steps[self.cycle(bus, edges[:-1]), bus] * STEPS_MV
        return float(np.sum(ma * mv * 1e-3 * np.diff(edges)) * 1e-9)


def read_table(path: Path) -> Table:
    """Read what `guest/chip.py` wrote."""
    header = np.dtype(
        [("magic", "<u4"), ("cycles", "<u4"), ("start", "<i8"), ("period", "<i8"), ("at", "<u4", 6)]
    )
    data = path.read_bytes()
    (head,) = np.frombuffer(data, header, 1)
    words = np.frombuffer(data, "<i2", offset=header.itemsize).reshape(-1, 6)
    assert len(words) == head["cycles"]
    complete = head["at"].astype(np.int64)
    return Table(int(head["start"]), int(head["period"]), complete, words.astype(np.int64) >> 3)


def boot(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run boot.sh."""
    command = [str(HERE / "boot.sh"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)


@pytest.fixture(scope="session")
def boots(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[Booted]]]:
    """The machines that this session's tests need, two of them at a time."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}; tests/lanes.sh real_driver installs what it needs")
    calls = [item.callspec for item in request.session.items if hasattr(item, "callspec")]
    needed = dict.fromkeys(call.params["booted"] for call in calls if "booted" in call.params)
    folders = {name: tmp_path_factory.mktemp(name) for name in needed}
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(run_scenarios, name, folders[name]) for name in needed}
        pool.shutdown(cancel_futures=True)


def run_scenarios(name: str, folder: Path) -> Booted:
    """Boot a machine and let it run its scenarios."""
    machine = MACHINES[name]
    options = ["--driver", machine.driver, "--out", str(folder), "--limit", "900"]
    program = "tests/real_driver/guest/scenarios.py"
    done = boot(*options, machine.board, program, *machine.scenarios)
    if not all((folder / f"{scenario}.json").exists() for scenario in machine.scenarios):
        raise RuntimeError(f"{name}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return Booted(machine, folder)


@pytest.fixture
def booted(request: pytest.FixtureRequest, boots: dict[str, Future[Booted]]) -> Booted:
    """A machine after it ran all its scenarios; tests name it with `on`."""
    return boots[request.param].result()
