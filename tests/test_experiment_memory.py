"""A child that the kernel kills for memory is named so, with the next smaller setting."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgejoule.config import RunConfig
from edgejoule.experiment import smaller_setting

ROOT = Path(__file__).resolve().parent.parent


def test_the_next_smaller_setting():
    config = RunConfig("m", "torch", "float32", input_shape=(8, 3, 32, 32))
    assert "--input-shape 4 3 32 32" in smaller_setting(config)
    single = dataclasses.replace(config, input_shape=(1, 3, 32, 32))
    assert "bfloat16" in smaller_setting(single)
    half = dataclasses.replace(single, dtype="bfloat16")
    assert "--threads 1" in smaller_setting(half)
    assert "smaller network" in smaller_setting(dataclasses.replace(half, threads=1))


@contextlib.contextmanager
def limited_memory(mib):
    """A control group with a memory limit, v1 or v2; skipped where none can be made."""
    for root, limit in (
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
    ):
        group = Path(root, f"edgejoule-test-{os.getpid()}")
        try:
            group.mkdir()
            (group / limit).write_text(f"{mib}M")
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    pytest.skip("no control group with a memory limit can be made here")


def test_a_kill_for_memory_is_named(tmp_path):
    pytest.importorskip("onnxruntime")
    command = [
        sys.executable, str(ROOT / "measure_inference_power.py"), "--model", "resnet18",
        "--weights", "random", "--backend", "onnxruntime", "--sensor", "none", "--runs", "5",
        "--idle-duration", "0.1", "--result-dir", str(tmp_path / "d"), "--quiet",
    ]  # fmt: skip
    # Coverage's own memory must not decide who is killed.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    with limited_memory(170) as group:
        shell = f'echo $$ > "{group}/cgroup.procs" && exec "$@"'
        done = subprocess.run(
            ["sh", "-c", shell, "sh", *command],
            capture_output=True, text=True, check=False, env=environment, timeout=120,
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert "set-up process was killed by the kernel for lack of memory" in line
    assert "--threads 1" in line
    assert not (tmp_path / "d" / "resnet18").exists()
