"""The older text layout, made and read by its rules alone: nothing of edgejoule is used here.

`Recording` writes a folder of that layout. `layer_powers`, `means_by_name` and `tables` read one as
scripts made for it do: a layer's interval is [callback - duration, callback], closed at both ends;
lines of the power log are consumed once, in order over all layers of inference 1, then 2, ...
"""

from __future__ import annotations

import datetime
import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

STAMP = "%Y%m%d-%H:%M:%S.%f"
BASE = datetime.datetime(2024, 11, 21, 5, 20, 4)
READ_TYPES = {
    "CaskConvolution": "convolutional",
    "CaskPooling": "pooling",
    "CaskGemmConvolution": "dense",
}


class Berlin(datetime.tzinfo):
    """Berlin's clock in 2024, so that no machine needs a table of zones."""

    _HOUR = datetime.timedelta(hours=1)
    _SPRING, _AUTUMN = datetime.datetime(2024, 3, 31, 2), datetime.datetime(2024, 10, 27, 3)

    def utcoffset(self, dt: datetime.datetime | None) -> datetime.timedelta:
        assert dt is not None
        at = dt.replace(tzinfo=None, fold=0)
        if self._SPRING <= at < self._SPRING + self._HOUR:  # left out
            return self._HOUR * (2 if dt.fold else 1)
        if self._AUTUMN - self._HOUR <= at < self._AUTUMN:  # comes twice
            return self._HOUR * (1 if dt.fold else 2)
        return self._HOUR * (2 if self._SPRING <= at < self._AUTUMN else 1)

    def dst(self, dt: datetime.datetime | None) -> datetime.timedelta:
        return self.utcoffset(dt) - self._HOUR

    def tzname(self, dt: datetime.datetime | None) -> str:
        return "here"

    def fromutc(self, dt: datetime.datetime) -> datetime.datetime:
        at = dt.replace(tzinfo=None)
        summer = self._SPRING - self._HOUR <= at < self._AUTUMN - 2 * self._HOUR
        again = self._AUTUMN - 2 * self._HOUR <= at < self._AUTUMN - self._HOUR
        return (dt + self._HOUR * (2 if summer else 1)).replace(fold=int(again))


def stamp(seconds: float) -> str:
    """The stamp of so many seconds after 05:20:04."""
    at = BASE + datetime.timedelta(microseconds=round(seconds * 1e6))
    return at.strftime(STAMP)


def tensor(*dimensions: int) -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": list(dimensions),
            "Format/Datatype": "Row major linear FP16 format"}  # fmt: skip


def window(key: str, size: int, stride: int, pre: int, post: int) -> dict[str, Any]:
    return {key: [size, size], "Stride": [stride, stride], "PrePadding": [pre, pre],
            "PostPadding": [post, post]}  # fmt: skip


CONV = {
    "Name": "conv", "LayerType": "CaskConvolution", "Inputs": [tensor(1, 3, 8, 8)],
    "Outputs": [tensor(1, 4, 8, 8)], "ParameterType": "Convolution", **window("Kernel", 3, 1, 1, 1),
    "Dilation": [1, 1], "OutMaps": 4, "Groups": 1, "Weights": {"Type": "Half", "Count": 108},
}  # fmt: skip
POOL = {
    "Name": "pool", "LayerType": "CaskPooling", "Inputs": [tensor(1, 4, 8, 8)],
    "Outputs": [tensor(1, 4, 4, 4)], "ParameterType": "Pooling", "PoolingType": "MAX",
    **window("WindowSize", 2, 2, 0, 1),
}  # fmt: skip
DENSE = {
    "Name": "fc", "LayerType": "CaskGemmConvolution", "Inputs": [tensor(1, 64, 1, 1)],
    "Outputs": [tensor(1, 10, 1, 1)], "ParameterType": "Convolution",
    **window("Kernel", 1, 1, 0, 0),
}  # fmt: skip
LAYERS = (CONV, POOL, DENSE)
DURATIONS = {"conv": 4.0, "pool": 2.0, "fc": 3.0}


@dataclass
class Recording:
    """A recording to write; every part can be replaced, or left out with None.

    The default: two inferences of 10 ms that end 1.010 s and 1.030 s after 05:20:04, three layers,
    a log of a line per millisecond from 0 to 2 s at 5000 mV and 1000 mA.
    """

    model: str = "net"
    ends: tuple[float, ...] = (1.010, 1.030)
    lists: dict[str, Any] | None = None
    engine: Any = field(default_factory=lambda: {"Layers": list(LAYERS), "Bindings": ["t"]})
    log: str | None = ""
    idling: dict[str, Any] | None = field(
        default_factory=lambda: {"timestamp": "20241121-051743", "avg_idle_power": 1000000.5}
    )
    config: dict[str, Any] | None = field(
        default_factory=lambda: {
            "model": "net", "dtype": "float16", "input_shape": [1, 3, 8, 8], "warmup": 50,
            "runs": 2, "optimization_level": 3, "min_block_size": 5, "result_dir": "raw_data",
        }
    )  # fmt: skip
    latencies: list[float] | None = None

    def write(self, root: Path) -> Path:
        """Write it below `root` and return that."""
        own = root / self.model
        (own / "trt_profiling").mkdir(parents=True)
        lists = self.lists
        if lists is None:
            lists = {
                name: [[ms, stamp(end + k * 1e-6)] for end in self.ends]
                for k, (name, ms) in enumerate(DURATIONS.items())
            }
        dump(own / "trt_profiling" / "trt_layer_latency.json", lists)
        if self.engine is not None:
            dump(own / "trt_profiling" / "trt_engine_info.json", self.engine)
        if self.log is not None:
            text = self.log or log_text([(n / 1000, 5000.0, 1000.0) for n in range(2001)])
            (own / f"{self.model}_power_log.log").write_text(text, encoding="ascii")
        if self.idling is not None:
            dump(root / "idling_power.json", self.idling)
        if self.config is not None:
            latencies = [0.010] * len(self.ends) if self.latencies is None else self.latencies
            document = {
                "config": self.config,
                "total_time": sum(latencies),
                "timestamp": "20241121-052004",
                "latencies": latencies,
                "avg_latency": mean(latencies) if latencies else None,
                "avg_throughput": None,
            }
            dump(own / f"{self.model}_tensorrt.json", document)
        return root


def dump(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, indent=4), encoding="utf-8")


def log_text(lines: list[tuple[float, float, float]]) -> str:
    """Lines of a log from seconds after 05:20:04, mV, mA."""
    return "".join(f"{stamp(t)},{mv!r},{ma!r}\n" for t, mv, ma in lines)


def structure(document: Any) -> Any:
    """What a document is made of: keys in order, types, and of a list the kinds of its elements."""
    if isinstance(document, dict):
        return {key: structure(value) for key, value in document.items()}
    if isinstance(document, list):
        return [json.loads(one) for one in sorted({json.dumps(structure(v)) for v in document})]
    return type(document).__name__


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def layer_powers(root: Path, model: str) -> list[dict[str, Any]]:
    """A row per inference and layer, as the older scripts have it."""
    own = root / model
    idle = _read(root / "idling_power.json")["avg_idle_power"]
    latency = _read(own / "trt_profiling" / "trt_layer_latency.json")
    info = _read(own / "trt_profiling" / "trt_engine_info.json")
    types = {layer["Name"]: layer["LayerType"] for layer in info["Layers"]}
    log = []
    for line in (own / f"{model}_power_log.log").read_text(encoding="ascii").splitlines():
        at, mv, ma = line.split(",")
        log.append((datetime.datetime.strptime(at, STAMP), float(mv) * float(ma)))
    rows, next_line = [], 0
    for cycle in range(len(next(iter(latency.values())))):
        for name, entries in latency.items():
            run_time, text = entries[cycle]
            end = datetime.datetime.strptime(text, STAMP)
            start = end - datetime.timedelta(milliseconds=run_time)
            while next_line < len(log) and log[next_line][0] < start:
                next_line += 1
            inside = []
            while next_line < len(log) and log[next_line][0] <= end:
                inside.append(log[next_line][1])
                next_line += 1
            power = mean(inside) if inside else None
            rows.append(
                {
                    "cycle": cycle + 1,
                    "layer_name": name,
                    "layer_type": types[name],
                    "layer_power_including_idle_power_micro_watt": power,
                    "layer_power_excluding_idle_power_micro_watt": (
                        None if power is None else power - idle
                    ),
                    "layer_run_time": run_time,
                }
            )
    return rows


def means_by_name(rows: list[dict[str, Any]]) -> dict[str, tuple[float | None, ...]]:
    """Layer name -> means of power with and without idle power, and of run time; nulls left out."""
    found = {}
    for name in dict.fromkeys(r["layer_name"] for r in rows if r["layer_type"] in READ_TYPES):
        own = [row for row in rows if row["layer_name"] == name]
        columns = []
        for key in list(own[0])[3:]:
            values = [row[key] for row in own if row[key] is not None]
            columns.append(mean(values) if values else None)
        found[name] = tuple(columns)
    return found


def tables(root: Path, model: str) -> dict[str, list[dict[str, Any]]]:
    """The tables `convolutional`, `pooling` and `dense` of a model."""
    info = _read(root / model / "trt_profiling" / "trt_engine_info.json")
    means = means_by_name(layer_powers(root, model))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in READ_TYPES.values()}
    for layer in info["Layers"]:
        table = READ_TYPES.get(layer["LayerType"])
        if table is None:
            continue
        given, made = (layer[key][0]["Dimensions"] for key in ("Inputs", "Outputs"))
        if {len(given), len(made)} - {2, 4}:
            raise ValueError(f"{layer['Name']} has tensors of other than 2 or 4 dimensions")
        row: dict[str, Any] = {"batch_size": given[0]}
        if table == "dense":
            sizes = []
            for shape in (given, made):
                size = 1
                for one in shape:
                    size *= one
                sizes.append(size)
            row |= {"input_size": sizes[0], "output_size": sizes[1]}
        else:
            row |= {f"input_size_{k}": size for k, size in enumerate(given[1:])}
            row |= {f"output_size_{k}": size for k, size in enumerate(made[1:])}
            kernel = layer["Kernel" if table == "convolutional" else "WindowSize"]
            for k in (0, 1):
                row[f"kernel_{k}"] = kernel[k]
                row[f"padding_{k}"] = layer["PrePadding"][k] + layer["PostPadding"][k]
                row[f"stride_{k}"] = layer["Stride"][k]
        power, _, run_time = means[layer["Name"]]
        found[table].append(
            {**row, "power": power, "runtime": run_time, "layer_name": layer["Name"]}
        )
    return found
