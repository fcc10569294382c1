"""`record` on NVIDIA GPUs, against the driver's own energy counter read by somebody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgejoule.dataset.schema import read_metadata
from edgejoule.energy.integrate import energy_mj
from edgejoule.energy.trace import rail_powers
from edgejoule.processes import PROJECT_ROOT

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(280)]
SECONDS = float(os.environ.get("EDGEJOULE_GPU_SECONDS", "30"))


def record(tmp_path: Path, kind: str, seconds: float, *words: str, **environment: str) -> Any:
    """Record the load program; return rails, metadata and what it said."""
    output = tmp_path / "trace.parquet"
    command = [sys.executable, "-m", "tests.support_gpu_load", str(seconds), kind]
    done = subprocess.run(
        [
            *(sys.executable, str(PROJECT_ROOT / "measure_power.py"), "record", "--sensor", "nvml"),
            *("--quiet", "--output", str(output), *words, "--", *command),
        ],
        cwd=PROJECT_ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print(done.stdout)
    return rail_powers(output), read_metadata(output), said


@pytest.mark.parametrize("kind", ["idle", "loaded"])
def test_record_agrees_with_the_counter(tmp_path: Path, kind: str) -> None:
    rails, metadata, said = record(tmp_path, kind, SECONDS)
    first, last = [item for item in said if "t_ns" in item]
    uuid = metadata["channels"][0]["chip"]
    counted_mj = last["energy_mj"][uuid] - first["energy_mj"][uuid]
    seconds = (last["t_ns"] - first["t_ns"]) * 1e-9
    shares = {
        name: energy_mj(rail, first["t_ns"], last["t_ns"]).energy_mj / counted_mj
        for name, rail in rails.items()
    }
    print(
        json.dumps({"kind": kind, "s": seconds, "counted_w": counted_mj / seconds / 1e3, **shares})
    )
    total = metadata["total"]["rails"]
    assert total == ["gpu_energy"]
    assert shares["gpu_energy"] == pytest.approx(1, abs=0.02)
    # An independent reading of the same supply: its own integral over the same time.
    assert shares["gpu_instant"] == pytest.approx(1, abs=0.02)


def test_the_chosen_gpu_rises_and_the_other_does_not(tmp_path: Path) -> None:
    from edgejoule.power.gpu_choice import listed_by_nvml

    gpus = listed_by_nvml()
    if len(gpus) < 2:
        pytest.skip("needs two GPUs")
    seconds = SECONDS / 2
    visible = ",".join(str(gpu.index) for gpu in reversed(gpus[:2]))
    environment = {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    watts: dict[tuple[str, str], float] = {}
    for kind in ("idle", "loaded"):
        for device in ("0", "1"):
            folder = tmp_path / f"{kind}{device}"
            folder.mkdir()
            rails, metadata, said = record(folder, kind, seconds, "--device", device, **environment)
            first, last = [item for item in said if "t_ns" in item]
            uuid = metadata["channels"][0]["chip"]
            # cuda:0 is the second GPU by PCI address here, and the recorded one is that of CUDA.
            assert uuid == gpus[1 - int(device)].uuid
            if kind == "loaded" and device == "0":
                assert uuid.endswith(
                    next(i["uuid"] for i in said if "uuid" in i).removeprefix("GPU-")
                )
            energy = energy_mj(rails["gpu_energy"], first["t_ns"], last["t_ns"])
            watts[kind, device] = energy.mean_mw / 1e3
    print(json.dumps({f"{kind} cuda:{device}": value for (kind, device), value in watts.items()}))
    assert watts["loaded", "0"] > 2 * watts["idle", "0"]
    assert watts["loaded", "1"] == pytest.approx(watts["idle", "1"], rel=0.1)
