"""Rails and board in an unprivileged container, which shows neither device tree nor powercap.

A made-up sysfs is mounted as the container's /sys. The runtime then masks in it what it masks in
the real one: /sys/firmware, and /sys/devices/virtual/powercap (Docker and newer podman of
themselves; podman 4.3 is told to). Behind the masks stands another board's device tree: who reads
it knows the wrong board.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.container.conftest import OWNER, Engine, copy_project
from tests.support_power import make_chip, orin_nx

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

POWERCAP = "/sys/devices/virtual/powercap"
MASKED = ("--security-opt", f"mask={POWERCAP}")
# Nobody asked for more than a plain container, and a root's powers are not needed either.
UNPRIVILEGED = (*MASKED, "--cap-drop=all", "--security-opt=no-new-privileges")
USER = ("--user", f"{OWNER}:{OWNER}")
AS = pytest.mark.parametrize("user", [(), USER], ids=["root", "user"])

AGX = {
    "VDD_GPU_SOC": "1-0040",
    "VDD_CPU_CV": "1-0040",
    "VIN_SYS_5V0": "1-0040",
    "VDDQ_VDD2_1V8AO": "1-0041",
}
NANO = dict.fromkeys(("VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"), "1-0040")


def tree(root: Path) -> Path:
    """Make what every container sees of its host, and what is masked there."""
    (root / "fs" / "cgroup").mkdir(parents=True)  # where the runtime wants to mount
    base = root / "firmware" / "devicetree" / "base"
    base.mkdir(parents=True)
    (base / "model").write_bytes(b"NVIDIA Jetson AGX Xavier Developer Kit\0")
    (base / "compatible").write_bytes(b"nvidia,p2972-0000\0nvidia,tegra194\0")
    zone = root / POWERCAP.removeprefix("/sys/") / "intel-rapl" / "intel-rapl:0"
    zone.mkdir(parents=True)
    for name, text in (("name", "package-0"), ("energy_uj", "1"), ("max_energy_range_uj", "9")):
        (zone / name).write_text(f"{text}\n", encoding="ascii")
    classes = root / "class" / "powercap"
    classes.mkdir(parents=True)
    up = "../../devices/virtual/powercap/intel-rapl"
    (classes / "intel-rapl:0").symlink_to(f"{up}/intel-rapl:0")
    return root


@pytest.fixture
def orin_nano(tmp_path: Path) -> Path:
    root = tree(tmp_path / "sys")
    orin_nx(root)  # the Nano's rails are the same
    return root


@pytest.fixture
def agx_orin(tmp_path: Path) -> Path:
    root = tree(tmp_path / "sys")
    make_chip(root, "1-0040", tuple(AGX)[:3], shunt_uohm=2000)
    labels = (None, "VDDQ_VDD2_1V8AO", None)
    make_chip(root, "1-0041", labels, hwmon=1, shunt_uohm=2000, enabled=(0, 1, 0))
    return root


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that is only read."""
    return copy_project(tmp_path_factory.mktemp("read") / "checkout")


Inside = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def inside(engine: Engine, base: str, checkout: Path) -> Inside:
    """Run a command of the checkout where /sys is a made-up one, all of it read-only."""

    def start(
        sysfs: Path, *command: str, options: tuple[str, ...] = UNPRIVILEGED
    ) -> subprocess.CompletedProcess[str]:
        mounts = ("-v", f"{checkout}:/app:ro", "-v", f"{sysfs}:/sys:ro", "-w", "/app")
        line = ("run", "--rm", "--read-only", *mounts, *options, base, *command)
        return engine("podman", *line, check=False)

    return start


def rails(done: subprocess.CompletedProcess[str], sensor: str = "ina3221") -> dict[str, Any]:
    """Return what `rails --json` says of a sensor."""
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)[sensor]
    return found


def listed(sensor: str = "ina3221", *more: str) -> tuple[str, ...]:
    return ("python3", "measure_power.py", "rails", "--sensor", sensor, *more)


LOOK = f"""
import errno, json, os, shutil
def write():
    try:
        open("/sys/class/hwmon/hwmon0/in1_enable", "w").close()
    except OSError as error:
        return errno.errorcode[error.errno]
print(json.dumps({{
    "uid": os.getuid(),
    "firmware": os.listdir("/sys/firmware"),
    "powercap": os.listdir("{POWERCAP}"),
    "zones": os.listdir("/sys/class/powercap"),
    "device_tree": os.path.exists("/proc/device-tree"),
    "nvpmodel": shutil.which("nvpmodel"),
    "write": write(),
}}))
"""


@AS
def test_what_the_container_shows(inside: Inside, agx_orin: Path, user: tuple[str, ...]) -> None:
    """The premise of the tests below: masked is masked, and nothing can be written."""
    done = inside(agx_orin, "python3", "-c", LOOK, options=(*UNPRIVILEGED, *user))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "uid": OWNER if user else 0,
        "firmware": [],
        "powercap": [],
        "zones": ["intel-rapl:0"],
        "device_tree": False,
        "nvpmodel": None,
        "write": "EROFS",
    }


@AS
def test_agx_orin_is_known_by_its_rails(
    inside: Inside, agx_orin: Path, user: tuple[str, ...]
) -> None:
    done = inside(agx_orin, *listed("ina3221", "--json"), options=(*UNPRIVILEGED, *user))
    found = rails(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(c["rail"], c["chip"], c["quantity"]) for c in found["channels"]] == [
        (rail, chip, quantity) for rail, chip in AGX.items() for quantity in ("voltage", "current")
    ]
    values = [(channel["value"], channel["unit"]) for channel in found["channels"]]
    assert values[:4] == [(5001, "mV"), (100, "mA"), (5002, "mV"), (200, "mA")]
    board = found["board"]
    assert (board["name"], board["certain"]) == ("Jetson AGX Orin", True)
    assert board["how"] == f"the rails {', '.join(AGX)} (1-0040, 1-0041)"
    # What lies inside VIN_SYS_5V0 is not counted twice.
    assert found["total"]["rails"] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
    assert board["parents"] == {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}


@AS
def test_orin_nano_has_a_total_though_its_siblings_cannot_be_told_apart(
    inside: Inside, orin_nano: Path, user: tuple[str, ...]
) -> None:
    done = inside(orin_nano, *listed("ina3221", "--json"), options=(*UNPRIVILEGED, *user))
    found = rails(done)
    assert (done.returncode, done.stderr) == (0, "")
    assert {channel["rail"]: channel["chip"] for channel in found["channels"]} == NANO
    board = found["board"]
    assert {"Jetson Orin Nano", "Jetson Orin NX"} <= set(board["names"])
    assert "AGX" not in board["name"]
    assert board["how"] == f"the rails {', '.join(NANO)} (1-0040)"
    assert board["certain"] is False
    assert any("cannot be told apart" in note for note in board["notes"])
    assert found["total"]["rails"] == ["VDD_IN"]
    assert board["parents"] == {"VDD_CPU_GPU_CV": "VDD_IN", "VDD_SOC": "VDD_IN"}


def test_soc0_is_not_masked_and_tells_the_siblings_apart(inside: Inside, orin_nano: Path) -> None:
    soc0 = orin_nano / "devices" / "soc0"
    soc0.mkdir()
    machine = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit"
    (soc0 / "machine").write_text(f"{machine}\n", encoding="ascii")
    board = rails(inside(orin_nano, *listed("ina3221", "--json")))["board"]
    assert (board["name"], board["certain"]) == ("Jetson Orin Nano", True)
    assert board["how"] == f"/sys/devices/soc0/machine says {machine}"


def test_unmasked_the_device_tree_is_what_counts(inside: Inside, agx_orin: Path) -> None:
    """The counter-check: what was behind the mask would have been read."""
    options = ("--security-opt", "unmask=/sys/firmware")
    found = rails(inside(agx_orin, *listed("ina3221", "--json"), options=options))
    assert found["board"]["how"].startswith("the device tree's")
    assert found["board"]["name"] == "Jetson AGX Xavier"
    assert found["total"] is None  # its rails are others


@AS
def test_the_board_can_be_named(inside: Inside, orin_nano: Path, user: tuple[str, ...]) -> None:
    named = ("-e", "EDGEJOULE_BOARD=orin-nano")
    options = (*UNPRIVILEGED, *user)
    found = rails(inside(orin_nano, *listed("ina3221", "--json"), options=(*options, *named)))
    assert (found["board"]["name"], found["board"]["certain"]) == ("Jetson Orin Nano", True)
    assert found["board"]["how"] == "EDGEJOULE_BOARD says so"
    assert found["total"]["rails"] == ["VDD_IN"]


def test_a_board_that_it_cannot_be_is_refused(inside: Inside, orin_nano: Path) -> None:
    options = (*UNPRIVILEGED, "-e", "EDGEJOULE_BOARD=agx-orin")
    done = inside(orin_nano, *listed(), options=options)
    assert done.returncode == 2
    assert done.stderr.startswith("error: EDGEJOULE_BOARD=agx-orin: Jetson AGX Orin has ")
    assert "leave EDGEJOULE_BOARD away" in done.stderr
    assert done.stderr.count("\n") == 1


@AS
def test_rapl_is_said_to_be_masked_with_the_mend(
    inside: Inside, agx_orin: Path, user: tuple[str, ...]
) -> None:
    done = inside(agx_orin, *listed("rapl", "--json"), options=(*UNPRIVILEGED, *user))
    assert done.returncode == 2
    found = rails(done, "rapl")
    assert found["why_not"].startswith("RAPL is hidden")
    assert POWERCAP in found["why_not"]
    assert f"unmask={POWERCAP}" in found["mend"]
    # For people the same, and auto still takes what there is.
    shown = inside(agx_orin, *listed("rapl"), options=(*UNPRIVILEGED, *user))
    assert "not here: RAPL is hidden" in shown.stdout
    assert "outside the container" in shown.stdout
    auto = inside(agx_orin, *listed("auto"), options=(*UNPRIVILEGED, *user))
    assert (auto.returncode, auto.stdout.splitlines()[-1]) == (0, "auto takes: ina3221")


def test_the_mend_for_rapl_mends_it(inside: Inside, agx_orin: Path) -> None:
    options = ("--security-opt", f"unmask={POWERCAP}")  # a newer podman masks it of itself
    found = rails(inside(agx_orin, *listed("rapl", "--json"), options=options), "rapl")
    assert [channel["value"] for channel in found["channels"]] == [1]
    assert found["total"]["rails"] == ["package-0"]


def test_a_host_without_powercap_is_told_so(inside: Inside, orin_nano: Path) -> None:
    (orin_nano / "class" / "powercap" / "intel-rapl:0").unlink()
    done = inside(orin_nano, *listed("rapl"))
    assert done.returncode == 2
    assert "not here: no RAPL below /sys/class/powercap" in done.stdout
    assert "modprobe intel_rapl_msr" in done.stdout


@AS
def test_the_sampler_records_there(inside: Inside, agx_orin: Path, user: tuple[str, ...]) -> None:
    """No priority, no writing to /sys: the trace comes all the same."""
    script = (
        "import json, sys, time; from pathlib import Path; from edgejoule.power.acquire import *\n"
        "run = Path('/dev/shm/run'); run.mkdir()\n"
        "child, ready = start_sampler('ina3221', run)\n"
        "time.sleep(0.5); status = child.stop()\n"
        "report = json.loads((run / 'sampler.json').read_text())\n"
        "print(json.dumps([status, ready['board']['name'], ready['period_ns'], report]))\n"
    )
    done = inside(agx_orin, "python3", "-c", script, options=(*UNPRIVILEGED, *user))
    assert done.returncode == 0, done.stderr
    status, name, period_ns, report = json.loads(done.stdout.splitlines()[-1])
    assert (status, name) == (0, "Jetson AGX Orin")
    assert 0 < period_ns <= 6_600_000
    assert report["sweeps"] >= 10
    assert report["errors"] == {}
    assert report["place"]["nice"] == 0
    assert "not allowed" in report["place"]["why_nice"]
