"""Real runs in a pseudo-terminal: what a person sees, and what is left when they stop it."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
if sys.platform == "win32":
    pytest.skip("measuring needs Linux or macOS", allow_module_level=True)

from tests.support_live import Session, in_terminal
from tests.support_models import write_onnx

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.once("whole runs; what is drawn is tested as text on any Python")

CAMPAIGN = """
import sys
from pathlib import Path
from edgejoule import campaign as steps
from edgejoule.errors import run_command
from edgejoule.knobs import Knobs
from edgejoule.plan import Network
from edgejoule.supervision import stop_on_signals
knobs = Knobs(weights="random", result_dir=Path(sys.argv[1]), runs=30, clean_seconds=2.0, warmup=5,
              sensor="simulated", energy="proportional", backend="onnxruntime",
              idle_duration_s=0.6)
(knobs.result_dir).mkdir()
(knobs.result_dir / "idling_power.json").write_text("{}")
networks = [Network("lenet", "lenet"), Network(sys.argv[2], "tiny")]
steps.conclude = lambda campaign: int(bool(campaign.failed))  # the report has tests of its own
with stop_on_signals() as stop:
    expected = {"lenet": 10.0, sys.argv[2]: 600.0}
    campaign = steps.Campaign(knobs, networks, stop, "simulated", expected_s=expected)
    sys.exit(run_command(lambda: steps.run_campaign(campaign)))
"""


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    return {**kept, "TERM": "xterm", "PYTHONPATH": str(ROOT), **changes}


def check_tidy(session: Session) -> None:
    """Nothing of the panel stays, and the cursor is there."""
    assert session.screen.hidden == 0
    assert "left: " not in session.screen.all()
    assert "6/12 clean pass" not in session.screen.all()


def test_a_campaign_shows_network_and_whole(tmp_path: Path) -> None:
    """Narrow and ASCII at first; then the terminal becomes wider, and in the end it is stopped."""
    widened, stopped = [], []

    def on_frame(session: Session) -> None:
        shown = session.screen.text()
        if not widened and "network 2 of 2" in shown:
            widened.append(True)
            session.resize(100, 45)
        # What the second network does after that is what the first one did.
        if not stopped and "for all 2 networks" in shown and "VDD_IN" in shown:
            stopped.append(True)
            session.type(b"\x03")

    write_onnx(tmp_path / "tiny.onnx")
    command = [sys.executable, "-c", CAMPAIGN, str(tmp_path / "d"), str(tmp_path / "tiny.onnx")]
    ascii_only = environment(PYTHONIOENCODING="ascii:backslashreplace", COLUMNS="")
    session = in_terminal(command, 40, 45, ascii_only, on_frame)
    assert session.process.returncode == 130, session.screen.all()
    for part in ("network 1 of 2", "network 2 of 2", "SIMULATED power", "latency ", "VDD_IN",
                 "1/12 set-up", "6/12 clean pass", " C (tj-thermal)"):  # fmt: skip
        assert session.saw(part), part
    narrow = [frame for frame in session.frames if "network 1 of 2" in frame]
    # The second network's estimate is in the first one's whole; nothing is wider than asked.
    assert any(re.search(r"left: .*about 1[01] min for all", frame) for frame in narrow)
    assert max(len(line) for line in narrow[-1].splitlines()) <= 40
    wide = [frame for frame in session.frames if "network 2 of 2" in frame][-1]
    # Asked for again with every frame, the size is the new one: what fits only there is shown.
    assert "for all 2 networks" in wide
    drawn = session.data.partition(b"[1/2]")[2].partition(b"closing")[0]
    assert drawn.isascii()
    check_tidy(session)
    (path,) = (tmp_path / "d").glob("*/run.json")
    text = path.read_text()
    assert "OUTLOOK" not in text
    assert "position" not in json.loads(text)["config"]


def test_ctrl_c_leaves_a_clean_terminal(tmp_path: Path) -> None:
    stopped = []

    def on_frame(session: Session) -> None:
        shown = session.screen.text()
        if not stopped and "clean pass  " in shown and "latency" in shown and "W" in shown:
            stopped.append(shown)
            session.type(b"\x03")

    command = [
        sys.executable, str(ROOT / "measure_inference_power.py"), "--model", "lenet",
        "--weights", "random", "--backend", "onnxruntime", "--sensor", "simulated",
        "--idle-duration", "0.6", "--clean-seconds", "120", "--result-dir", str(tmp_path / "d"),
    ]  # fmt: skip
    session = in_terminal(command, 90, 40, environment(), on_frame)
    assert stopped
    assert session.process.returncode == 130, session.screen.text()
    check_tidy(session)
    last = session.screen.text().splitlines()
    assert any("interrupted by SIGINT" in line for line in last[-4:])
    # Lines that others wrote stand above where the panel was, once.
    assert sum("clean pass: as many inferences" in line for line in last) == 1
    assert "\u2588" in stopped[0]
    assert "about " in stopped[0]
