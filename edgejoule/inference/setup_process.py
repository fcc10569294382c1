"""The set-up process: from a model's name to artefacts on disk, then it is gone with its memory.

    python -m edgejoule.inference.setup_process      (started by `processes.start_child`)

Config: `directory` (of the run), `loader` (`model:load`), `model`, `weights`, `seed`,
`input_shape`, `backend`, `dtype`, `device`, `threads`, `extra`, `input`, `engine` (a file that is
taken in place of a model), `memory_limit_gib`, `calibration`, `calibration_cache`, `cache`,
`killed` (how often this build was killed for want of memory).
Messages: `stage` {name} as it goes; `done` with what `artefacts/setup.json` holds.
"""

from __future__ import annotations

import gc
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgejoule.errors import EdgejouleError, MeasurementError, UsageError
from edgejoule.inference.accuracy import Reference, compare, reference_outputs
from edgejoule.inference.backend import Adopted, Backend, BuildOptions, EngineDescription
from edgejoule.inference.backends import get_backend
from edgejoule.inference.common import (
    DISK_FULL,
    disk_full_error,
    model_error,
    peak_rss_mib,
    write_json,
)
from edgejoule.inference.inputs import load_inputs, make_inputs, save_inputs
from edgejoule.inference.workload import InputSpec, LoadedModel, ModelRequest, import_loader
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
        memory_limit_gib=config.get("memory_limit_gib"),
        calibration=config.get("calibration"),
        calibration_cache=config.get("calibration_cache"),
        cache=config.get("cache"),
        killed=int(config.get("killed") or 0),
    )
    make = _adopt if config.get("engine") else _build
    engine, report, reference = make(config, backend, options, artefacts, parent)
    spec = str(config["model"])
    if not engine.layers:
        raise UsageError(f"model {spec} computes nothing", "give a model with at least one layer")
    write_json(directory / "engine.json", engine.to_json())
    for name in engine.keep:
        shutil.copyfile(artefacts / name, directory / name)
    gc.collect()  # so that the check below does not need memory for two
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # for TensorRT, which allocates beside torch

    parent.say("stage", name="check")
    accuracy = _check(spec, backend, options, artefacts, reference)
    report |= {
        "layers": len(engine.layers),
        "peak_rss_mib": peak_rss_mib(),
        "settings": engine.settings,
        "versions": engine.versions,
        "accuracy": accuracy,
        "keep": list(engine.keep),
    }
    write_json(artefacts / "setup.json", report)
    parent.say("done", **report)


def _build(
    config: dict[str, Any], backend: Backend, options: BuildOptions, artefacts: Path, parent: Parent
) -> tuple[EngineDescription, dict[str, Any], Reference]:
    """Load the model, make its inputs, keep its float32 outputs, build."""
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
    parent.say("stage", name="reference")
    # Before the build, which may cast the module itself.
    if options.killed:
        why = "left out: the kernel had killed the set-up for want of memory"
        reference = Reference((), why, model.weights)
    else:
        reference = reference_outputs(model, sets, options)
    del sets

    parent.say("stage", name="build")
    building_ns = time.monotonic_ns()
    engine = backend.build(model, options, artefacts)
    report: dict[str, Any] = {
        "name": model.name,
        "weights": model.weights,
        "source": model.source,
        "inputs": _describe_inputs(model.inputs),
        "input": description.to_json(),
        "normalisation": model.normalisation,
        "seconds": {"load": load_s, "build": _seconds_since(building_ns)},
    }
    shutil.rmtree(source, ignore_errors=True)
    return engine, report, reference


def _adopt(
    config: dict[str, Any], backend: Backend, options: BuildOptions, artefacts: Path, parent: Parent
) -> tuple[EngineDescription, dict[str, Any], Reference]:
    """Take a finished engine in from its file and make inputs for it."""
    file = Path(config["engine"])
    if not hasattr(backend, "adopt"):
        raise UsageError(
            f"backend {backend.name} takes no finished engine ({file})", "use --backend tensorrt"
        )
    parent.say("stage", name="load")
    loading_ns = time.monotonic_ns()
    shape = config.get("input_shape")
    wanted = None if shape is None else tuple(int(size) for size in shape)
    adopted: Adopted = backend.adopt(file, options, artefacts, wanted)
    load_s = _seconds_since(loading_ns)
    parent.say("stage", name="inputs")
    sets, description = make_inputs(
        str(config.get("input") or "normal"), adopted.inputs, None, options.seed
    )
    save_inputs(artefacts / "inputs.npz", sets)
    report: dict[str, Any] = {
        "name": adopted.name,
        "weights": "user",
        "source": adopted.source,
        "inputs": _describe_inputs(adopted.inputs),
        "input": description.to_json(),
        "normalisation": None,
        "seconds": {"load": load_s, "build": None},
    }
    return adopted.engine, report, Reference((), "an engine file has no float32 model beside it")


def _describe_inputs(inputs: Sequence[InputSpec]) -> list[dict[str, Any]]:
    return [{"name": one.name, "shape": list(one.shape), "dtype": one.dtype} for one in inputs]


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


def _check(
    spec: str, backend: Backend, options: BuildOptions, artefacts: Path, reference: Reference
) -> dict[str, Any]:
    """Run what was built: a model that raises must not reach the measurement.

    Returns:
        How far its outputs are from those in float32, or `why` that is not known.
    """
    try:
        session = backend.open(artefacts, options)
        sets = load_inputs(artefacts / "inputs.npz")
        session.bind(sets)
        compared = len(sets) if reference.outputs else 1
        found = [session.outputs(which) for which in range(compared)]
        session.close()
    except MeasurementError as error:
        raise MeasurementError(f"model {spec}: {error.message}", error.mend) from error
    except EdgejouleError:
        raise
    except Exception as error:
        raise model_error(spec, "raises when it is run", error) from error
    if not any(array.size for array in found[0]):
        raise MeasurementError(f"model {spec}: the model returns nothing")
    return compare(reference, found).to_json()


def _seconds_since(start_ns: int) -> float:
    return round((time.monotonic_ns() - start_ns) / 1e9, 3)


if __name__ == "__main__":
    child_main(set_up)
