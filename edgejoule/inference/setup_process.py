"""The set-up process: from a model's name to artefacts on disk, then it is gone with its memory.

    python -m edgejoule.inference.setup_process      (started by `processes.start_child`)

Config: `directory` (of the run), `loader` (`model:load`), `model`, `weights`, `seed`,
`input_shape`, `backend`, `dtype`, `device`, `threads`, `extra`, `input`.
Messages: `stage` {name} as it goes; `done` with what `artefacts/setup.json` holds.
"""

from __future__ import annotations

import gc
import shutil
import time
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.inference.backend import Backend, BuildOptions
from edgejoule.inference.backends import get_backend
from edgejoule.inference.common import (
    DISK_FULL,
    disk_full_error,
    model_error,
    peak_rss_mib,
    write_json,
)
from edgejoule.inference.inputs import load_inputs, make_inputs, save_inputs
from edgejoule.inference.workload import LoadedModel, ModelRequest, import_loader
from edgejoule.processes import Parent, child_main


def set_up(config: dict[str, Any], parent: Parent) -> None:
    """Load, build, describe, prove that the model answers, report.

    Raises:
        UsageError: Model, input, backend or option are wrong; the model raises.
        MeasurementError: The model returns nothing; no memory or disk is left.
    """
    directory = Path(config["directory"])
    try:
        _set_up(config, directory, parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full_error(error, directory) from error
        raise


def _set_up(config: dict[str, Any], directory: Path, parent: Parent) -> None:
    artefacts = directory / "artefacts"
    artefacts.mkdir(exist_ok=True)
    backend = get_backend(config["backend"])
    options = BuildOptions(
        dtype=config["dtype"],
        device=config.get("device") or "cpu",
        threads=int(config.get("threads") or 0),
        seed=int(config.get("seed") or 0),
        extra=config.get("extra") or {},
    )
    spec = str(config["model"])

    parent.say("stage", name="load")
    loading_ns = time.monotonic_ns()
    source = artefacts / "source"
    source.mkdir(exist_ok=True)
    model = _load(config, backend, source)
    load_s = _seconds_since(loading_ns)

    parent.say("stage", name="inputs")
    sets, description = make_inputs(
        str(config.get("input") or "normal"), model.inputs, model.normalisation, options.seed
    )
    save_inputs(artefacts / "inputs.npz", sets)
    del sets

    parent.say("stage", name="build")
    building_ns = time.monotonic_ns()
    engine = backend.build(model, options, artefacts)
    build_s = _seconds_since(building_ns)
    if not engine.layers:
        raise UsageError(f"model {spec} computes nothing", "give a model with at least one layer")
    write_json(directory / "engine.json", engine.to_json())
    report: dict[str, Any] = {
        "name": model.name,
        "weights": model.weights,
        "source": model.source,
        "inputs": [
            {"name": one.name, "shape": list(one.shape), "dtype": one.dtype} for one in model.inputs
        ],
        "input": description.to_json(),
        "normalisation": model.normalisation,
    }
    del model  # so that the check below does not need memory for two
    gc.collect()
    shutil.rmtree(source, ignore_errors=True)

    parent.say("stage", name="check")
    _check(spec, backend, options, artefacts)
    report |= {
        "layers": len(engine.layers),
        "seconds": {"load": load_s, "build": build_s},
        "peak_rss_mib": peak_rss_mib(),
        "settings": engine.settings,
        "versions": engine.versions,
    }
    write_json(artefacts / "setup.json", report)
    parent.say("done", **report)


def _load(config: dict[str, Any], backend: Backend, source: Path) -> LoadedModel:
    shape = config.get("input_shape")
    if backend.form not in ("torch", "onnx"):
        raise UsageError(f"backend {backend.name} wants a model as {backend.form!r}")
    request = ModelRequest(
        spec=str(config["model"]),
        weights=str(config.get("weights") or "pretrained"),
        seed=int(config.get("seed") or 0),
        input_shape=None if shape is None else tuple(int(dim) for dim in shape),
        form="torch" if backend.form == "torch" else "onnx",
        directory=source,
    )
    loader = import_loader(str(config["loader"]))
    try:
        model = loader(request)
    except EdgejouleError:
        raise
    except (Exception, SystemExit) as error:  # a user's file may do anything at import
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        raise model_error(request.spec, "cannot be loaded", error) from error
    if not isinstance(model, LoadedModel):
        raise UsageError(f"model {request.spec}: its loader returned {type(model).__name__}")
    return model


def _check(spec: str, backend: Backend, options: BuildOptions, artefacts: Path) -> None:
    """Run one inference of what was built: a model that raises must not reach the measurement."""
    try:
        session = backend.open(artefacts, options)
        session.bind(load_inputs(artefacts / "inputs.npz"))
        outputs = session.outputs(0)
        session.close()
    except MeasurementError as error:
        raise MeasurementError(f"model {spec}: {error.message}", error.mend) from error
    except EdgejouleError:
        raise
    except Exception as error:
        raise model_error(spec, "raises when it is run", error) from error
    if not any(array.size for array in outputs):
        raise MeasurementError(f"model {spec}: the model returns nothing")


def _seconds_since(start_ns: int) -> float:
    return round((time.monotonic_ns() - start_ns) / 1e9, 3)


if __name__ == "__main__":
    child_main(set_up)
