"""Runs as each older version of the format wrote them are read: by verify, report and tables.

The JSON files are built by hand, key by key as the writers of that version did, and hashed here;
no writer of today has a part in them.
"""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from edgejoule.dataset.run_directory import read_defaults
from edgejoule.dataset.tables.layer_table import layer_table
from edgejoule.dataset.verify import verify_dataset
from edgejoule.report.everything import write_everything
from edgejoule.report.write import gather

MS = 1_000_000
LAYER_NS = (400_000, 300_000)
SPAN_NS, PAUSE_NS = 800_000, 200_000
PASSES = {"warmup": 2, "clean": 4, "profiled": 5}
MILLIVOLT, MILLIAMPERE, IDLE_MW = 5000, 1000, 4000.0
POWER_MW = MILLIVOLT * MILLIAMPERE / 1000
BEGIN_NS = 1_000 * MS


def dumped(document):
    return (json.dumps(document, indent=2, sort_keys=True) + "\n").encode()


def config_of(version):
    config = {
        "model": "lenet", "backend": "torch", "dtype": "float32", "device": "cpu",
        "input_shape": [1, 3, 8, 8], "input": "normal", "weights": "pretrained", "seed": 0,
        "warmup": PASSES["warmup"], "runs": PASSES["profiled"], "clean_runs": PASSES["clean"],
        "clean_seconds": 30.0, "precision_percent": None, "rate_hz": None, "idle_duration_s": 0.02,
        "sensor": "ina3221", "threads": 0, "repeat": 0, "rebuild": 0, "mode": None, "board": None,
        "extra": {}, "input_sha256": None, "model_sha256": None,
    }  # fmt: skip
    return config | ({"memory_limit_gib": 4.0} if version >= 3 else {})


def engine_of(version):
    layers = []
    for index in range(len(LAYER_NS)):
        layer = {
            "index": index, "name": f"conv{index}", "type": "aten.convolution.default",
            "inputs": [{"name": "x", "shape": [1, 3, 8, 8], "dtype": "float32"}],
            "outputs": [{"name": "y", "shape": [1, 3, 8, 8], "dtype": "float32"}],
            "attributes": {}, "module_path": None, "nodes": ["conv"], "flops": 10,
            "bytes_moved": None,
        }  # fmt: skip
        if version >= 3:
            layer |= {
                "operation": "convolution", "kernel": [3, 3], "stride": [1, 1], "padding": [1, 1],
                "dilation": [1, 1], "groups": 1, "weights": 10, "tactic": None, "fused": [],
                "modules": ["conv"],
            }  # fmt: skip
        layers.append(layer)
    engine = {
        "backend": "torch", "versions": {"torch": "2.4.0"}, "settings": {"threads": 4},
        "start_offsets": True, "layers": layers,
    }  # fmt: skip
    return engine | ({"overlap": False} if version >= 3 else {})


def phases_of():
    phases, t_ns = [], BEGIN_NS
    lengths = {name: count * (SPAN_NS + PAUSE_NS) for name, count in PASSES.items()}
    for name, length in {"idle_before": 20 * MS, **lengths, "idle_after": 20 * MS}.items():
        phases.append({"phase": name, "start_ns": t_ns, "end_ns": t_ns + length})
        t_ns += length
    return phases


def sensor_of(version):
    """The sensor, as in run.json and (without its name) in the trace's metadata."""
    channels = [
        {
            "index": index, "rail": "VDD_IN", "quantity": quantity, "unit": unit, "chip": "1-0040",
            "source": source, "shunt_uohm": 5000, "lsb": 8.0,
        }
        for index, (quantity, unit, source) in enumerate(
            [("voltage", "mV", "in1_input"), ("current", "mA", "curr1_input")]
        )
    ]  # fmt: skip
    sensor = {
        "name": "ina3221", "simulated": False, "refresh_ns": MS, "configuration": {"update": 1},
        "channels": channels,
    }  # fmt: skip
    if version >= 2:
        for channel in channels:
            channel |= {"sensor": "ina3221", "wrap": None, "averaging": None}
        group = {"name": "1-0040", "channels": [0, 1], "refresh_ns": MS, "blocking": False}
        sensor |= {"groups": [{**group, "period_ns": None}], "board": None, "total": None}
    return sensor


def write(path, columns, schema, **metadata):
    """Write a table as versions 1 to 3 did: durations always split into byte streams."""
    schema = pa.schema(schema)
    if metadata:
        schema = schema.with_metadata({b"edgejoule": json.dumps(metadata).encode()})
    streams = {"duration_ms": "BYTE_STREAM_SPLIT"} if "duration_ms" in schema.names else None
    pq.write_table(
        pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema),
        path,
        compression="zstd",
        use_dictionary=[name for name in schema.names if name != "duration_ms"],
        column_encoding=streams,
    )


def write_tables(folder, version):
    text = pa.dictionary(pa.int32(), pa.string())
    passes, starts, index = [], [], []
    for phase in phases_of():
        for number in range(PASSES.get(phase["phase"], 0)):
            passes.append(phase["phase"])
            index.append(number)
            starts.append(phase["start_ns"] + number * (SPAN_NS + PAUSE_NS))
    ends = [start + SPAN_NS for start in starts]
    write(
        folder / "inferences.parquet",
        {"pass": passes, "index": index, "start_ns": starts, "end_ns": ends,
         "due_ns": [None] * len(index)},
        [pa.field("pass", text, False), pa.field("index", pa.int32(), False),
         pa.field("start_ns", pa.int64(), False), pa.field("end_ns", pa.int64(), False),
         pa.field("due_ns", pa.int64())],
    )  # fmt: skip
    count = PASSES["profiled"]
    write(
        folder / "layers.parquet",
        {"inference": np.repeat(np.arange(count), 2), "layer": [0, 1] * count,
         "duration_ms": [ns * 1e-6 for ns in LAYER_NS] * count,
         "start_offset_ns": [0, LAYER_NS[0]] * count},
        [pa.field("inference", pa.int32(), False), pa.field("layer", pa.int16(), False),
         pa.field("duration_ms", pa.float32(), False), pa.field("start_offset_ns", pa.int64())],
    )  # fmt: skip
    t0 = np.arange(BEGIN_NS - 5 * MS, phases_of()[-1]["end_ns"] + 5 * MS, MS // 4)
    raw = np.where(np.arange(len(t0)) % 2, MILLIAMPERE, MILLIVOLT)
    facts = {key: value for key, value in sensor_of(version).items() if key != "name"}
    anchor = {"monotonic_ns": 0, "wall_ns": 1_732_166_404_000_000_000}
    write(
        folder / "power.parquet",
        {"t0_ns": t0, "t1_ns": t0 + 5_000, "channel": np.arange(len(t0)) % 2,
         "raw": raw, "errno": [None] * len(t0)},
        [pa.field("t0_ns", pa.int64(), False), pa.field("t1_ns", pa.int64(), False),
         pa.field("channel", pa.int16(), False), pa.field("raw", pa.int64()),
         pa.field("errno", pa.int16())],
        **facts, sensor="ina3221", wall_anchor=anchor, cut_records=0,
    )  # fmt: skip
    parts = [("layer", 0, LAYER_NS[0]), ("layer", 1, LAYER_NS[1])]
    parts += [("gap", None, SPAN_NS - sum(LAYER_NS)), ("inference", None, SPAN_NS)]
    parts += [("closure", None, SPAN_NS)]
    kinds, layers, lengths = zip(*parts, strict=True)
    nothing = [None] * len(parts)
    write(
        folder / "energy.parquet",
        {"method": ["proportional"] * 5, "rail": ["VDD_IN"] * 5, "kind": kinds, "layer": layers,
         "gross_mj": [POWER_MW * ns * 1e-9 for ns in lengths], "gross_statistical_mj": nothing,
         "dynamic_mj": [(POWER_MW - idle_mw(version)) * ns * 1e-9 for ns in lengths],
         "dynamic_statistical_mj": nothing, "systematic_mj": nothing, "n": [count] * 5,
         "resolved": nothing},
        [pa.field("method", text, False), pa.field("rail", text, False),
         pa.field("kind", text, False), pa.field("layer", pa.int16()),
         pa.field("gross_mj", pa.float64(), False),
         *(pa.field(name, pa.float64()) for name in ("gross_statistical_mj", "dynamic_mj",
                                                     "dynamic_statistical_mj", "systematic_mj")),
         pa.field("n", pa.int64(), False), pa.field("resolved", pa.bool_())],
    )  # fmt: skip


def idle_mw(version):
    """Baselines are held against the trace, which is of one power, since version 4."""
    return IDLE_MW if version < 4 else POWER_MW


def idle_of(version):
    figures = {
        "mean_mw": idle_mw(version), "sd_mw": 1.0, "half_width_mw": 2.0,
        "interval_mw": [idle_mw(version) - 2, idle_mw(version) + 2],
        "n": 80, "blocks": 16, "duration_s": 0.02, "drift_mw": 0.1, "coverage": 1.0,
        "method": "batch means",
    }  # fmt: skip
    entry = {
        "kind": "loaded", "when": "before", "start_ns": BEGIN_NS, "end_ns": BEGIN_NS + 20 * MS,
        "rails": {"VDD_IN": figures},
    }  # fmt: skip
    return [entry | ({"conditions": None, "verdicts": []} if version >= 2 else {})]


def summary_of(version):
    ms = SPAN_NS / MS
    told = {
        "inferences": 4, "mean_ms": ms, "interval_mean_ms": [ms, ms],
        "interval_scope": "within this process", "median_ms": ms, "p90_ms": ms, "p99_ms": ms,
        "min_ms": ms, "max_ms": ms,
    }  # fmt: skip
    shares = {"layers_ms_median": 0.7, "gap_ms_median": 0.1, "layers_share": 0.875}
    energies = {}
    for phase in phases_of():
        seconds = (phase["end_ns"] - phase["start_ns"]) * 1e-9
        cell = {"energy_mj": POWER_MW * seconds, "seconds": seconds, "mean_mw": POWER_MW}
        energies[phase["phase"]] = {"VDD_IN": cell}
    each = {
        "gross_mj": 4.0, "gross_statistical_mj": 0.0,
        "dynamic_mj": (POWER_MW - idle_mw(version)) * SPAN_NS * 1e-9,
        "dynamic_statistical_mj": 0.1, "mean_mw": POWER_MW, "n": 5,
    }  # fmt: skip
    summary = {
        "inferences": PASSES, "clean": told, "profiled": {**told, "inferences": 5, **shares},
        "profiled_over_clean": 1.0, "rate": None, "warmup": None, "settings": {"threads": 4},
        "outputs": {"finite": True, "sha256": "0" * 64, "shapes": [[1, 10]]},
        "memory": {"setup_peak_rss_mib": 90.0, "measure_peak_rss_mib": 80.0},
        "setup_seconds": {"load": 0.1, "build": 0.2}, "sampler": None, "cooldown": {},
        "energy": {"rail": None, "total_of": None, "methods": ["proportional"],
                   "rails": {"VDD_IN": {"clean": each, "profiled": each}}},
        "phase_energies": energies, "notes": ["a note"],
    }  # fmt: skip
    if version >= 2:
        summary["idle_drift"] = {}
    if version >= 3:
        summary["memory"] |= {"limit": None, "peak_mib": 80.0, "how": "resident memory"}
        summary["profiled"] |= {"held_ms_mean": 0.0, "without_held_ms_median": ms}
    return summary


def write_dataset(dataset, version):
    """Write a dataset of one run as that version of the format had it."""
    folder = dataset / "lenet"
    folder.mkdir(parents=True)
    write_tables(folder, version)
    (folder / "engine.json").write_bytes(dumped(engine_of(version)))
    (folder / "idle.json").write_bytes(dumped(idle_of(version)))
    (folder / "run.log").write_text("", encoding="utf-8")
    files = {}
    for path in folder.iterdir():
        rows = pq.read_metadata(path).num_rows if path.suffix == ".parquet" else None
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files[path.name] = {"sha256": digest, "bytes": path.stat().st_size, "rows": rows}
    config = config_of(version)
    plain = json.dumps(config, sort_keys=True, separators=(",", ":"))
    run = {
        "schema_version": version, "run_sha256": "", "name": "lenet", "status": "complete",
        "missing": [], "started_at": "2024-11-21T05:20:04+00:00", "config": config,
        "config_sha256": hashlib.sha256(plain.encode()).hexdigest(), "command": ["measure"],
        "why": {"backend": ["asked for"], "sensor": "the first"}, "machine": {"cpu": {}},
        "board_id": None, "power_mode": None, "sensor": sensor_of(version), "simulated": False,
        "weights": "pretrained", "source": {"library": "torchvision"},
        "input": {"kind": "normal", "seed": 0},
        "clock": {"wall_anchor": {"monotonic_ns": 0, "wall_ns": 1_732_166_404_000_000_000}},
        "phases": phases_of(), "summary": summary_of(version), "files": files,
        "versions": {"edgejoule": f"0.{version}.0", "torch": "2.4.0"},
    }  # fmt: skip
    if version >= 2:
        run |= {"shared_gpu": None, "sharing": None}
    if version >= 3:
        run["accuracy"] = None
    run["run_sha256"] = hashlib.sha256(dumped(run)).hexdigest()
    (folder / "run.json").write_bytes(dumped(run))
    defaults = {"backend": "torch", "dtype": "float32", "batch": 1, "mode": None, "board": None}
    document = {"schema_version": version, "defaults": defaults, "created_at": run["started_at"]}
    idle = {"timestamp": "20241121-051743", "avg_idle_power": 4_000_000.0, **idle_of(version)[0]}
    idle["kind"] = "cold"
    for name, content in (("dataset.json", document), ("idling_power.json", idle)):
        if version >= 4:
            content |= {"schema_version": version, "sha256": ""}
            content["sha256"] = hashlib.sha256(dumped(content)).hexdigest()
        (dataset / name).write_bytes(dumped(content))
    return dataset


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_dataset_of_an_older_version_is_right_and_read(tmp_path, version):
    dataset = write_dataset(tmp_path / "data", version)
    report = verify_dataset(dataset)
    assert report.findings == ()
    assert [(run.status, run.findings) for run in report.runs] == [("complete", ())]
    assert read_defaults(dataset)["backend"] == "torch"
    text = write_everything(dataset, gather(dataset), figures=False)[1].read_text(encoding="utf-8")
    assert "lenet" in text
    assert "0.8" in text  # the latency, ms
    assert "conv1" in text
    table = layer_table(dataset, say=lambda line: None)
    assert table.num_rows == len(LAYER_NS)
    assert table["schema_version"].to_pylist() == [version] * len(LAYER_NS)


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_a_lie_about_an_older_run_is_found_all_the_same(tmp_path, version):
    dataset = write_dataset(tmp_path / "data", version)
    path = dataset / "lenet" / "run.json"
    run = json.loads(path.read_bytes())
    run["summary"]["phase_energies"]["clean"]["VDD_IN"]["energy_mj"] *= 2
    run["run_sha256"] = ""
    run["run_sha256"] = hashlib.sha256(dumped(run)).hexdigest()
    path.write_bytes(dumped(run))
    (finding,) = verify_dataset(dataset).runs[0].findings
    assert "VDD_IN in phase clean: the trace gives" in finding.problem
