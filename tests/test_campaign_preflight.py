"""Preflight verdicts on fake machines, and the whole preflight on this one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgejoule import preflight
from edgejoule import preflight_checks as checks
from edgejoule.knobs import Knobs
from edgejoule.machine import PowerMode, describe_machine, power_modes
from edgejoule.plan import Network
from edgejoule.power.sensor import Where
from edgejoule.preflight_checks import Backend, Check
from tests.test_machine_facts import cpu, orin, put

MODES = [PowerMode("15W", 0), PowerMode("MAXN_SUPER", 2), PowerMode("25W", 1)]


@pytest.fixture
def jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, Any]]:
    monkeypatch.delenv("EDGEJOULE_BOARD", raising=False)
    sys_root, proc = orin(tmp_path)
    return tmp_path, describe_machine(sys_root, proc, tmp_path, tmp_path)


def test_jetson_with_everything_wrong(jetson: tuple[Path, dict[str, Any]]) -> None:
    root, machine = jetson
    assert checks.check_board(machine).detail == (
        "NVIDIA Jetson Orin Nano Developer Kit, L4T 36.4.3"
    )
    mode = checks.check_power_mode(machine, *power_modes(root), container=False)
    # On this board mode 0 is the slow one: the number comes from its own table.
    assert (mode.verdict, mode.mend) == ("warning", "sudo nvpmodel -m 2")
    clocks = checks.check_clocks(machine)
    assert (clocks.verdict, clocks.detail, clocks.mend) == (
        "warning",
        "GPU vary",
        "sudo jetson_clocks",
    )
    fan = checks.check_fan(machine, str(root / "sys"))
    assert (fan.verdict, fan.mend) == ("warning", "sudo jetson_clocks --fan")
    desktop = checks.check_desktop(["gnome-shell"], container=False)
    assert (desktop.verdict, desktop.mend) == (
        "warning",
        "sudo systemctl isolate multi-user.target",
    )


def test_jetson_as_it_should_be(jetson: tuple[Path, dict[str, Any]]) -> None:
    root, _ = jetson
    put(root, "sys/class/devfreq/17000000.gpu/min_freq", "1020000000")
    put(root, "sys/class/hwmon/hwmon2/pwm1", "255")
    put(root, "var/lib/nvpmodel/status", "pmode:0002")
    machine = describe_machine(root / "sys", root / "proc", root, root)
    found = [
        checks.check_power_mode(machine, *power_modes(root), container=False),
        checks.check_clocks(machine),
        checks.check_fan(machine, str(root / "sys")),
        checks.check_desktop([], container=False),
    ]
    assert [(check.verdict, check.mend) for check in found] == [("ok", "")] * 4


@pytest.mark.parametrize(
    ("mode", "modes", "container", "verdict", "mend"),
    [
        (None, [], True, "warning", "docker run -v /etc/nvpmodel.conf"),
        (None, [], False, "warning", "sudo nvpmodel -m 0"),
        (PowerMode("mode 0", 0), [], False, "ok", ""),
        (PowerMode("mode 3", 3), [], False, "warning", "sudo nvpmodel -m 0"),
        (MODES[2], MODES, False, "warning", "sudo nvpmodel -m 2"),
        (MODES[2], [MODES[0], MODES[2]], False, "ok", ""),
    ],
)
def test_power_mode(
    mode: PowerMode | None, modes: list[PowerMode], container: bool, verdict: str, mend: str
) -> None:
    check = checks.check_power_mode({"l4t": "36.4"}, mode, modes, container)
    assert check.verdict == verdict
    assert check.mend.startswith(mend)


def test_plain_machine(tmp_path: Path) -> None:
    machine = describe_machine(tmp_path / "sys", tmp_path / "proc", tmp_path, tmp_path)
    assert checks.check_power_mode(machine, None, [], container=True).verdict == "ok"
    assert checks.check_clocks(machine).verdict == "ok"
    for number in range(2):
        cpu(tmp_path / "sys", number, 1, 2, 2)
    machine = describe_machine(tmp_path / "sys", tmp_path / "proc", tmp_path, tmp_path)
    check = checks.check_clocks(machine)
    assert (check.verdict, check.mend) == ("warning", "sudo cpupower frequency-set -g performance")
    machine["cpu"]["governors"] = ["performance"]
    assert checks.check_clocks(machine).verdict == "ok"
    assert checks.check_board({}).verdict == "warning"
    assert checks.check_clocks({"l4t": "36.4", "cpu": {"locked": True}}).verdict == "warning"


def test_sensor(tmp_path: Path) -> None:
    assert checks.check_sensor("auto", Where(str(tmp_path)))[0] == "none"
    assert checks.check_sensor("auto", Where(str(tmp_path)))[1].verdict == "warning"
    assert (
        "looked for ina3221, tegrastats"
        in checks.check_sensor("auto", Where(str(tmp_path)))[1].detail
    )
    board = checks.check_sensor("auto", Where(str(tmp_path)), jetson=True)[1]
    assert "no INA3221 below" in board.detail
    assert checks.check_sensor("none", Where(str(tmp_path)))[1].verdict == "ok"
    name, check = checks.check_sensor("ina3221", Where(str(tmp_path)))
    assert (name, check.verdict, check.exit_code) == ("ina3221", "blocks", 2)
    name, check = checks.check_sensor("simulated", Where(str(tmp_path)))
    assert (name, check.verdict) == ("simulated", "ok")
    chip = "class/hwmon/hwmon3"
    put(tmp_path, f"{chip}/name", "ina3221\n")
    for field, value in (("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "800")):
        put(tmp_path, f"{chip}/{field}", value + "\n")
    name, check = checks.check_sensor("auto", Where(str(tmp_path)))
    assert (name, check.verdict) == ("ina3221", "ok")
    assert "5000" in check.detail


@pytest.mark.parametrize(
    ("said", "verdict", "exit_code", "mend"),
    [
        (None, "warning", 2, ""),
        ({"error": "refused", "mend": "look", "exit_code": 3}, "blocks", 3, "look, or PUSH=off"),
        ({"error": "down", "mend": "wait", "exit_code": 4}, "warning", 2, "wait"),
        ({"writable": True, "exists": True}, "ok", 2, ""),
        ({"exists": True}, "blocks", 3, "ask its owner, or PUSH=off"),
        ({}, "blocks", 2, "CREATE_REPO=1 creates it, or PUSH=off"),
        ({"create": True}, "ok", 2, ""),
        ({"create": True, "owner": "other"}, "blocks", 2, "DAGSHUB_OWNER=another, or PUSH=off"),
    ],
)
def test_server(said: dict[str, Any] | None, verdict: str, exit_code: int, mend: str) -> None:
    knobs = Knobs(create_repository=bool(said and said.pop("create", False)))
    if said is not None and "error" not in said:
        answer = {"label": "me/r", "user": "me", "owner": "me", "exists": False, "writable": False}
        said = answer | said
    check = checks.check_server(said, knobs)
    assert (check.verdict, check.exit_code, check.mend) == (verdict, exit_code, mend)


def test_backend() -> None:
    networks = [Network("a", "a", forms=("onnx",)), Network("b", "b")]
    said = {"backend": "torch", "form": "torch", "device": "cuda:0", "dtype": "float16", "why": [],
            "options": ["cuda_graphs"]}  # fmt: skip
    backend, check = checks.check_backend(said, Knobs(), networks)
    assert (check.verdict, check.mend) == ("blocks", "MODELS=b")
    assert "in which these cannot be had here: a" in check.detail
    backend, check = checks.check_backend(said, Knobs(), networks[1:])
    assert (backend.gpu, check.verdict) == (True, "ok")
    _, check = checks.check_backend(said, Knobs(min_block_size=1), networks[1:])
    assert (check.verdict, check.detail) == ("blocks", "torch knows no MIN_BLOCK_SIZE")
    assert checks.check_backend(said, Knobs(cuda_graphs=True), networks[1:])[1].verdict == "ok"
    compiled = {**said, "backend": "torch-tensorrt", "options": ["min_block_size"]}
    _, check = checks.check_backend(compiled, Knobs(min_block_size=1), networks[1:])
    assert check.verdict == "ok"
    _, check = checks.check_backend(compiled, Knobs(cuda_graphs=True), networks[1:])
    assert check.detail == "torch-tensorrt knows no CUDA_GRAPHS"
    backend, check = checks.check_backend(None, Knobs(backend="torch"), [])
    assert (backend, check.verdict) == (Backend("torch"), "warning")
    assert backend.gpu is None
    broken = {"error": "no", "mend": "install it", "exit_code": 2}
    assert checks.check_backend(broken, Knobs(), [])[1].verdict == "blocks"


def test_memory_disk_and_folder(tmp_path: Path) -> None:
    verdicts = [checks.check_memory(mib).verdict for mib in (None, 100, 1000, 9000)]
    assert verdicts == ["ok", "blocks", "warning", "ok"]
    assert checks.check_disk(tmp_path / "a" / "b", 1e12).verdict == "blocks"
    assert checks.check_disk(tmp_path, 1e-9).verdict == "ok"
    assert checks.check_folder(tmp_path / "new" / "deep").detail.endswith("(will be made)")
    (tmp_path / "file").write_text("")
    assert checks.check_folder(tmp_path / "file").verdict == "blocks"
    assert checks.check_folder(tmp_path / "file" / "below").verdict == "blocks"
    assert not (tmp_path / "new").exists()


def test_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = type("Usage", (), {"free": 150 * 2**20})
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: free)
    assert checks.check_disk(tmp_path, 100).verdict == "warning"


def test_folder_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.os, "access", lambda *_: False)  # root may write everywhere
    check = checks.check_folder(tmp_path / "new")
    assert (check.verdict, check.mend) == ("blocks", "RESULT_DIR=another")


def test_weights_and_no_push() -> None:
    networks = [Network("a", "a", download_mib=1500), Network("b", "b")]
    check = checks.check_weights(Knobs(), networks)
    assert "1.5 GiB to download for 1 networks" in check.detail
    assert checks.check_weights(Knobs(weights="random"), networks).detail.startswith("random")
    assert checks.check_weights(Knobs(), networks[1:]).detail == "all here"
    assert "later" in checks.check_no_push(Knobs(push="later")).detail
    assert "no token" in checks.check_no_push(Knobs()).detail
    assert checks.check_no_push(Knobs(token=True)).detail == "off"


def test_text_shows_mends_and_harmless_names() -> None:
    text = preflight.preflight_text([Check("board", "warning", "x\x1b[1m", "do it")])
    assert "\x1b" not in text
    assert "-> do it" in text


def test_whole_preflight_here(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    knobs = Knobs(backend="onnxruntime", sensor="none", result_dir=tmp_path / "d", weights="random")
    found = preflight.run_preflight(knobs, [Network("a", "a")], limit_s=60)
    names = [check.name for check in found.checks]
    assert names == [
        "board", "power mode", "clocks", "fan", "desktop", "sensor", "backend", "energy", "memory",
        "folder", "weights", "push",
    ]  # fmt: skip
    assert found.backend.form == "onnx"
    assert found.sensor == "none"
    assert not found.gpu
    assert not (tmp_path / "d").exists()


def test_gpu_is_seen_where_the_backend_is_slow() -> None:
    slow = Backend("auto")
    assert preflight.Preflight((), slow, "none", {"gpu": {"names": ["H"]}}).gpu
    assert preflight.Preflight((), slow, "none", {"gpu": {"clocks": [1]}}).gpu
    assert not preflight.Preflight((), slow, "none", {"gpu": {"names": None}}).gpu


def test_slow_probe_is_killed() -> None:
    code = [sys.executable, "-c", "import time; print('{}', flush=True); time.sleep(600)"]
    with subprocess.Popen(code, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as slow:
        assert preflight.said_by(slow, time.monotonic()) is None
        slow.kill()


def test_broken_probe_says_its_last_line() -> None:
    with preflight.probe("backend") as broken:
        said = preflight.said_by(broken, time.monotonic() + 60)
    assert said is not None
    assert said["error"].startswith("cannot be tried: ")
    assert broken.returncode != 0


class Server(BaseHTTPRequestHandler):
    """A host that knows the user and lets nobody push."""

    seen: list[tuple[str, str | None]] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers.get("Authorization")))
        good = self.path == "/api/v1/user"
        body = json.dumps({"username": "me"} if good else {}).encode()
        self.send_response(200 if good else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_server_is_asked_with_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "very-secret")
    monkeypatch.setenv("DAGSHUB_CLIENT_HOST", f"http://127.0.0.1:{server.server_port}")
    try:
        knobs = Knobs(push="each", token=True, sensor="none", backend="none-such")
        found = preflight.run_preflight(knobs, [Network("a", "a")], limit_s=60)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    push = found.checks[-1]
    assert push.detail == "me/edgejoule-raw-data does not exist"
    assert push.mend == "CREATE_REPO=1 creates it, or PUSH=off"
    assert Server.seen[0] == ("/api/v1/user", "Bearer very-secret")
    backend = next(check for check in found.checks if check.name == "backend")
    assert backend.verdict == "blocks"
    assert "none-such" in backend.detail
    assert "very-secret" not in preflight.preflight_text(found.checks)


def test_methods_that_cannot_work_block_before_anything_is_measured() -> None:
    methods, check = checks.check_energy(Knobs(energy="auto"), "ina3221", Backend("tensorrt"))
    assert methods is not None
    assert methods.names == ("window",)
    assert check.detail == (
        "of layers by window, proportional (the sensor's refreshes can be polled)"
    )
    for knobs, sensor, backend in (
        (Knobs(energy="foo"), "ina3221", "torch"),
        (Knobs(energy="window"), "nvml", "torch"),
        (Knobs(replay_budget_s=9.0), "ina3221", "torch"),
        (Knobs(energy="replay"), "nvml", "torch-tensorrt"),
    ):
        nothing, check = checks.check_energy(knobs, sensor, Backend(backend))
        assert (nothing, check.verdict, check.exit_code) == (None, "blocks", 2)
        assert check.mend
    # The probe was too slow to name the backend: the first run will tell.
    assert checks.check_energy(Knobs(energy="replay"), "nvml", Backend())[1].verdict == "ok"
    assert checks.check_energy(Knobs(), "none", Backend("torch"))[1].detail == "none"
