"""`predict_power.py` on datasets as people have them: fit, score, predict, show, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgejoule.cli.predict_power import main
from tests.support_dataset import reseal
from tests.support_prediction import build_dataset, layers_of_network

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("data") / "raw"
    build_dataset(folder)
    return folder


@pytest.fixture(scope="module")
def model(dataset: Path) -> Path:
    path = dataset.parent / "model.npz"
    assert main(["fit", str(dataset), "-o", str(path)]) == 0
    return path


def as_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.splitlines()[-1].startswith("error: ")
    return error.splitlines()[-1]


def engine_json(path: Path, layers: list[dict[str, Any]]) -> Path:
    engine = {
        "backend": "onnxruntime",
        "versions": {},
        "settings": {},
        "start_offsets": False,
        "layers": layers,
    }
    path.write_text(json.dumps(engine), encoding="utf-8")
    return path


def test_a_run_is_predicted_beside_what_was_measured(
    model: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(["predict", str(model), str(dataset / "net1")], capsys)
    assert len(found["layers"]) == 12
    for layer in found["layers"]:
        assert layer["runtime_ms"] == pytest.approx(layer["measured_ms"], rel=0.02)
        assert layer["beyond"] == []
        assert "power_gross_mw" not in layer  # the proportional method tells none apart
    totals = found["totals"]
    assert totals["latency_ms"]["value"] == pytest.approx(totals["latency_ms"]["measured"], rel=0.1)
    assert totals["gross_mw"]["value"] == pytest.approx(5000, rel=1e-6)
    assert totals["gross_mw"]["measured"] == pytest.approx(5000, rel=1e-6)
    assert totals["dynamic_mj"]["measured"] == pytest.approx(0.8 * totals["gross_mj"]["measured"])
    assert totals["latency_ms"]["low"] is None  # four networks give no 90 % interval
    notes = " ".join(found["notes"])
    assert "net1 is among the networks" in notes
    assert "the mean power of a network is predicted, not that of a layer" in notes


def test_the_model_says_what_it_was_learnt_from(
    model: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(["show", str(model)], capsys)
    seals = {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))["run_sha256"]
        for path in dataset.glob("*/run.json")
    }
    assert {one["run"]: one["run_sha256"] for one in found["runs"]} == seals
    assert found["dataset"]["commit"] is None  # no repository
    assert found["configuration"]["backend"] == "onnxruntime"
    assert main(["show", str(model)]) == 0
    assert "learnt from 4 runs of 4 networks" in capsys.readouterr().out


def test_layers_beyond_what_was_learnt_are_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = layers_of_network(9)
    layers[0] = {**layers[0], "flops": 10**12}
    layers[1] = {**layers[1], "operation": "softmax", "type": "Softmax"}
    path = engine_json(tmp_path / "engine.json", layers)
    found = as_json(["predict", str(model), str(path)], capsys)
    assert "flops 1e+12 above" in " ".join(found["layers"][0]["beyond"])
    assert found["layers"][1]["beyond"] == ["unknown type"]
    notes = " ".join(found["notes"])
    assert "never seen: softmax" in notes
    assert "lie beyond what was learnt" in notes
    assert all(layer["runtime_ms"] > 0 for layer in found["layers"])
    assert main(["predict", str(model), str(path)]) == 0
    assert "unknown type" in capsys.readouterr().out


def test_another_batch_is_scaled_and_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = engine_json(tmp_path / "engine.json", layers_of_network(1))
    arguments = ["predict", str(model), str(path), "--with", "roofline"]
    one = as_json(arguments, capsys)
    four = as_json([*arguments, "--batch", "4"], capsys)
    first, again = one["layers"][2], four["layers"][2]
    layer = layers_of_network(1)[2]
    activations = sum(4 * int(np.prod(t["shape"])) for t in (*layer["inputs"], *layer["outputs"]))
    more = 3 * layer["flops"] * 2e-9 + 3 * activations * 3e-8  # the law; weights are read once
    assert again["runtime_ms"] - first["runtime_ms"] == pytest.approx(more, rel=0.01)
    assert "scaled from batch 1 to 4" in " ".join(four["notes"])
    assert "batch_size 4 above 1" in again["beyond"]


def test_scores_come_with_baselines_and_families(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    families = ["--family", "net0,net1", "--family", "net2", "--family", "net3", "--jobs", "1"]
    found = as_json(["score", str(dataset), *families], capsys)
    alone, together = found["scores"]
    assert alone["groups"] == [["net0"], ["net1"], ["net2"], ["net3"]]
    assert together["groups"] == [["net0", "net1"], ["net2"], ["net3"]]
    layers = alone["layers"]
    assert layers["trees"]["median_ape"] < layers["flops by type"]["median_ape"]
    assert layers["trees"]["n"] == 48
    assert set(alone["types"]) == {"activation", "convolution"}
    assert alone["totals"]["gross_mj"]["trees"]["n"] == 4


def test_mixed_configurations_are_refused_with_the_filters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw"
    build_dataset(folder, range(2))
    build_dataset(folder, [2], power_mode="MAXN")
    build_dataset(folder, [3], power_mode="15W", board_id="abc")
    line = refusal(["fit", str(folder), "-o", str(tmp_path / "m.npz")], capsys)
    assert "power_mode: 15W, MAXN, none" in line
    assert "--mode 15W|MAXN|none" in line
    assert "--board abc|none" in line
    assert main(["fit", str(folder), "-o", str(tmp_path / "m.npz"), "--mode", "none"]) == 0
    assert "learnt from 2 runs" in capsys.readouterr().out
    assert "no run of" in refusal(["score", str(folder), "--mode", "5W"], capsys)
    assert "two networks at least" in refusal(["fit", str(folder), "--mode", "15W"], capsys)


def test_simulated_power_is_left_out_unless_asked_for_and_then_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw"
    build_dataset(folder, range(3), simulated=True)
    path = tmp_path / "m.json"
    assert main(["fit", str(folder), "-o", str(path)]) == 0
    assert "power is simulated and left out" in capsys.readouterr().out
    found = as_json(["predict", str(path), str(folder / "net0")], capsys)
    assert sorted(found["totals"]) == ["gap_ms", "latency_ms", "layers_ms"]
    assert main(["fit", str(folder), "-o", str(path), "--allow-simulated"]) == 0
    assert "POWER AND ENERGY ARE SIMULATED" in capsys.readouterr().out
    found = as_json(["predict", str(path), str(folder / "net0")], capsys)
    assert found["simulated"]
    assert "gross_mj" in found["totals"]
    for verb in (["predict", str(path), str(folder / "net0")], ["show", str(path)]):
        assert main(verb) == 0
        assert "SIMULATED, not measured" in capsys.readouterr().out
    assert as_json(["score", str(folder), "--allow-simulated", "--jobs", "1"], capsys)["simulated"]


def test_what_is_no_network_is_refused(
    model: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "engine.json").write_text('{"layers": 3}', encoding="utf-8")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    (tmp_path / "x.txt").write_text("", encoding="utf-8")
    for what, words in (
        (tmp_path / "engine.json", "is no engine.json"),
        (tmp_path / "broken.json", "cannot be read"),
        (tmp_path / "x.txt", "neither .onnx nor .json"),
        (tmp_path / "absent.onnx", "no such file"),
        (dataset, "is no run"),
    ):
        assert words in refusal(["predict", str(model), str(what)], capsys)
    net = str(dataset / "net0")
    assert "there is no model 'best'" in refusal(
        ["predict", str(model), net, "--with", "best"], capsys
    )
    assert "above zero" in refusal(["predict", str(model), net, "--batch", "0"], capsys)
    assert "is for ONNX files" in refusal(
        ["predict", str(model), net, "--input-shape", "1", "3"], capsys
    )


def test_a_changed_run_is_not_learnt_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "raw"
    build_dataset(folder, range(2))
    engine = folder / "net0" / "engine.json"
    engine.write_bytes(engine.read_bytes().replace(b"conv0", b"conv9"))
    assert main(["fit", str(folder), "-o", str(tmp_path / "m.npz")]) == 1
    assert "other bytes than run.json says" in capsys.readouterr().err
    reseal(folder / "net0")
    assert main(["fit", str(folder), "-o", str(tmp_path / "m.npz")]) == 0


def test_a_file_that_is_no_model_is_not_written_over(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "readings.npz"
    np.savez(path, mine=np.arange(3))
    before = path.read_bytes()
    words = refusal(["fit", str(dataset), "-o", str(path)], capsys)
    assert "is no model that this version reads; move it away, or give" in words
    assert path.read_bytes() == before
