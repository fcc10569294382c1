"""TensorRT from ONNX, and finished engines from files; needs neither torch nor torchvision.

`build` and `adopt` leave the same artefacts: the plan, what the session needs of it, the
inspector's JSON as it is, and an engine file that says what built it.
"""

from __future__ import annotations

import importlib.util
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgejoule.errors import UsageError
from edgejoule.inference.backend import (
    Adopted,
    Availability,
    BuildOptions,
    EngineDescription,
    Session,
)
from edgejoule.inference.common import plain
from edgejoule.inference.probe import probe
from edgejoule.inference.trt import ENGINE_FILE
from edgejoule.inference.trt.adopting import (
    Machine,
    adopted_name,
    input_specs,
    refuse_building_options,
    take_in,
    tensors_of,
    with_known_layers,
)
from edgejoule.inference.trt.build import OPTIONS, build_plan, check_options
from edgejoule.inference.trt.common import TEGRA_RELEASE, probed_devices, probed_dtypes
from edgejoule.inference.trt.precision import check_dtype, typing_of
from edgejoule.inference.trt.replay_about import write_replay_file

if TYPE_CHECKING:
    from edgejoule.inference.trt.origin import Origin
    from edgejoule.inference.workload import LoadedModel

_PROBE = """
import json
from edgejoule.errors import EdgejouleError, UsageError
from edgejoule.inference.trt.cuda import load_cuda
from edgejoule.inference.trt.library import load_tensorrt
from edgejoule.inference.trt.precision import dtypes_of_version
facts = {}
try:
    trt = load_tensorrt()
    facts = {"tensorrt": str(trt.__version__)}
    lacking = [name for name in ("Builder", "OnnxParser") if not hasattr(trt, name)]
    if lacking:
        raise UsageError(f"this tensorrt has no {lacking[0]}: a runtime alone, lean or dispatch")
    facts["dtypes"] = list(dtypes_of_version(trt))
    cuda = load_cuda()
    devices = [cuda.device(index) for index in range(cuda.device_count())]
    facts["devices"] = [{"name": one.name, "capability": list(one.compute_capability)}
                        for one in devices]
except EdgejouleError as error:
    facts |= {"why": error.message, "mend": error.mend}
print(json.dumps(facts))
"""


class TensorRtBackend:
    """TensorRT's builder and runtime on an NVIDIA GPU."""

    name = "tensorrt"
    form = "onnx"
    options = OPTIONS

    def availability(self) -> Availability:
        """Import it and ask for a CUDA device, in a process of its own."""
        found = probe(_PROBE)
        if found.error:
            return Availability(False, f"tensorrt cannot be used here ({found.error})", _mend())
        if "why" in found.facts:
            # Without a GPU it is that which has to be mended, else what is installed.
            mend = found.facts["mend"] if "tensorrt" in found.facts else ""
            return Availability(False, found.facts["why"], mend or _mend())
        gpu = found.facts["devices"][0]["name"]
        return Availability(True, f"TensorRT {found.facts['tensorrt']} on {gpu}")

    def dtypes(self, device: str) -> tuple[str, ...]:
        """Return what the GPU's compute capability and this TensorRT have, float16 first."""
        return probed_dtypes(probe(_PROBE).facts, device)

    def devices(self) -> tuple[str, ...]:
        """Return the CUDA devices."""
        return probed_devices(probe(_PROBE).facts)

    def build(
        self, model: LoadedModel, options: BuildOptions, artefacts: Path
    ) -> EngineDescription:
        """Prepare the graph, build a plan, open it once for the inspector, describe its layers.

        Raises:
            UsageError: An option, dtype or shape cannot be had; TensorRT does not take the graph;
                calibration data are missing or stale.
            MeasurementError: TensorRT builds no engine.
        """
        from edgejoule.inference.trt.prepare import prepare

        check_options(options)
        if model.onnx_path is None:
            raise UsageError(f"model {model.name} came without an ONNX graph")
        machine = Machine(options)
        trt, device = machine.trt, machine.device
        check_dtype(trt, options.dtype, device.compute_capability, device.name)
        typing = typing_of(trt, options.dtype, options.extra.get("allow_fallback"))
        graph = model.onnx_path
        prepared = prepare(trt, machine.cuda, model, graph, options, typing, artefacts)
        try:
            built = build_plan(
                trt,
                machine.cuda,
                prepared.graph,
                options,
                log=machine.log,
                inputs=model.inputs,
                explicit=prepared.explicit,
                calibrator=prepared.calibrator,
                allocator=machine.allocator,
                label=f"the graph of {model.name}",
            )
            settings = {**built.facts, **prepared.facts}
            if prepared.calibrator is not None:
                settings["calibrator"] = prepared.calibrator.facts()
            origin = _origin(prepared.graph, model)
        finally:
            prepared.clean(artefacts)
        if origin is None:
            settings["origin"] = "names in the engine alone: no package onnx to read the graph with"
        engine = machine.open(built.plan)
        description = take_in(
            machine, engine, built.plan, artefacts, model.inputs, settings, origin
        )
        _write_engine_file(machine, engine, built.plan, model, options, artefacts, description)
        calibrated = prepared.calibrator is not None
        write_replay_file(artefacts, prepared.graph, model.inputs, calibrated=calibrated)
        engine.close()
        return description

    def open(self, artefacts: Path, options: BuildOptions) -> Session:
        """Load the plan."""
        from edgejoule.inference.trt.session import open_plan_session

        check_options(options)
        return open_plan_session(artefacts, options)

    def adopt(
        self,
        engine: Path,
        options: BuildOptions,
        artefacts: Path,
        input_shape: tuple[int, ...] | None = None,
    ) -> Adopted:
        """Check an engine file, write artefacts as `build` does, and describe the engine.

        Args:
            engine: The file: this project's, a plan as trtexec writes it, or one behind a header
                that is known.
            options: Device, memory limit, options of the session.
            artefacts: Folder for the artefacts.
            input_shape: Shape of the first input; None is the engine's own, or what its
                optimisation profile is best at.

        Raises:
            UsageError: The file is no engine, or one that cannot run here, with the reason; the
                shape is none that it takes; an option is one of building.
        """
        from edgejoule.inference.trt.engine_file import check_engine, read_engine_file

        check_options(options)
        refuse_building_options(options)
        file = read_engine_file(engine)
        machine = Machine(options)
        notes = check_engine(
            file,
            tensorrt=str(machine.trt.__version__),
            gpu=machine.device.name,
            compute_capability=machine.device.compute_capability,
        )
        opened = machine.open(file.plan)
        inputs = input_specs(opened, engine, input_shape)
        settings: dict[str, Any] = {"engine_header": file.header}
        if notes:
            settings["notes"] = list(notes)
        if file.facts is not None:
            settings["built"] = {"dtype": file.facts.dtype, **dict(file.facts.settings)}
        description = take_in(machine, opened, file.plan, artefacts, inputs, settings, None)
        opened.close()
        if file.facts is not None:
            description = with_known_layers(description, file.facts.layers)
        shutil.copyfile(engine, artefacts / ENGINE_FILE)
        return Adopted(adopted_name(file), inputs, file.source(), description)


def _origin(graph: Path, model: LoadedModel) -> Origin | None:
    """Return the graph behind the engine, None without the package that reads it."""
    if importlib.util.find_spec("onnx") is None:
        return None
    from edgejoule.inference.trt.origin import onnx_origin_of

    return onnx_origin_of(graph, model.module_paths)


def _write_engine_file(
    machine: Machine,
    engine: Any,
    plan: bytes,
    model: LoadedModel,
    options: BuildOptions,
    artefacts: Path,
    description: EngineDescription,
) -> None:
    from edgejoule import __version__
    from edgejoule.files import sha256_of
    from edgejoule.inference.trt.engine_file import EngineFacts, write_engine_file

    facts = EngineFacts(
        name=model.name,
        tensorrt=str(machine.trt.__version__),
        gpu=machine.device.name,
        compute_capability=machine.device.compute_capability,
        dtype=options.dtype,
        model_sha256=str(model.source.get("sha256") or sha256_of(model.onnx_path or Path())),
        inputs=tensors_of(engine.inputs),
        outputs=tensors_of(engine.outputs),
        platform=platform.machine(),
        built_by=f"edgejoule {__version__}",
        settings=description.settings,
        layers=[plain(asdict(layer)) for layer in description.layers],
    )
    write_engine_file(artefacts / ENGINE_FILE, plan, facts)


def _mend() -> str:
    """Return how TensorRT is installed on a machine like this one."""
    python = platform.python_version()
    if TEGRA_RELEASE.exists():
        return (
            "apt install python3-libnvinfer, which serves the system's Python alone (3.8 on "
            f"JetPack 5, 3.10 on 6, 3.12 on 7; this is {python}): in an environment of its own, "
            "make that with /usr/bin/python3 -m venv --system-site-packages; NVIDIA's containers "
            "for Jetson have it"
        )
    return (
        "pip install tensorrt-cu12 or tensorrt-cu13, whichever CUDA version nvidia-smi shows; "
        "NVIDIA's containers pytorch and tensorrt have it"
    )
