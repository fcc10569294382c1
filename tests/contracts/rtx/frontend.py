"""Torch-TensorRT's real frontend and TensorRT for RTX's real builder, without a GPU.

Run as a child process: the import changes torch, and `stub_driver` changes more. What is replaced:
the questions to the driver (`torch.cuda`), the one thing the builder cannot know without a GPU (for
which one to build), and what follows a build (the plan is kept, not deserialised). Export,
lowering, partitioning, conversion and the build itself are theirs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

NETWORKS: list[tuple[list[str], list[str]]] = []
"""Inputs and layers of each network that was built."""


def stub_driver() -> Any:
    """Answer for a GPU that is not there; return the package."""
    import torch

    class Properties:
        name, major, minor, total_memory, multi_processor_count = "none", 8, 9, 2**34, 50

    cuda: Any = torch.cuda
    cuda.get_device_capability = lambda *_a, **_k: (8, 9)
    cuda.current_device = lambda: 0
    cuda.get_device_properties = lambda *_a, **_k: Properties
    cuda.get_device_name = lambda *_a, **_k: "none"
    cuda.device_count = lambda: 1
    cuda.is_available = lambda: False
    cuda.set_device = lambda *_a, **_k: None
    cuda.mem_get_info = lambda *_a, **_k: (2**33, 2**34)
    cuda.empty_cache = lambda: None

    from edgejoule.inference.trt.torch_compile import load_torch_tensorrt

    package = load_torch_tensorrt()
    import tensorrt as trt  # torch_tensorrt has put RTX's in its place
    from torch_tensorrt.dynamo.conversion import _TRTInterpreter as interpreter
    from torch_tensorrt.dynamo.runtime import _TorchTensorRTModule as runtime

    class Kept:
        def __init__(self, plan: Any) -> None:
            self.plan = plan

        def serialize(self) -> Any:
            return self.plan

        def get_aliased_input_tensor(self, _name: str) -> None:
            return None

    class Runtime:
        def __init__(self, _log: Any) -> None:
            pass

        def deserialize_cuda_engine(self, plan: Any) -> Kept:
            return Kept(plan)

    class Shim:
        def __getattr__(self, name: str) -> Any:
            return Runtime if name == "Runtime" else getattr(trt, name)

    class Silent:
        def __getattr__(self, _name: str) -> Any:
            return lambda *_a, **_k: None

    populate = interpreter.TRTInterpreter._populate_trt_builder_config

    def for_one_gpu(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = populate(self, *args, **kwargs)
        config.num_compute_capabilities = 1
        config.set_compute_capability(trt.ComputeCapability.SM89, 0)
        network = self.ctx.net
        inputs = [network.get_input(index).name for index in range(network.num_inputs)]
        layers = [network.get_layer(index).name for index in range(network.num_layers)]
        NETWORKS.append((inputs, layers))
        return config

    interpreter.TRTInterpreter._populate_trt_builder_config = for_one_gpu
    interpreter.trt = Shim()
    runtime.TorchTensorRTModule.setup_engine = lambda self: setattr(self, "engine", Silent())
    return package


def net() -> Any:
    """A residual block between two convolutions, a pooling before it, a head after it."""
    import torch

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(8, 8, 3, padding=1)
            self.norm = torch.nn.BatchNorm2d(8)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.norm(self.conv(x)) + x)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
            self.pool = torch.nn.MaxPool2d(2)
            self.layer1 = torch.nn.Sequential(Block(), Block())
            self.head = torch.nn.Linear(8, 5)

        def forward(self, x: Any) -> Any:
            x = self.layer1(self.pool(torch.relu(self.stem(x))))
            return {"logits": self.head(x.mean(dim=(2, 3))), "features": [x]}

    torch.manual_seed(0)
    return Net().eval()


def observe(package: Any, case: str) -> dict[str, Any]:
    """Build the network in one way and return what our code makes of it."""
    import torch

    from edgejoule.inference.backend import BuildOptions
    from edgejoule.inference.trt.torch_build import build_parts
    from edgejoule.inference.workload import InputSpec, LoadedModel

    NETWORKS.clear()
    pool = torch.ops.aten.max_pool2d.default
    inputs = (InputSpec("x", (1, 3, 16, 16)),)
    model = LoadedModel("net", "torch", net(), None, inputs, "random", {})
    dtype = "float16" if case == "float16" else "float32"
    must = case in {"whole", "refused"}
    whole = {"require_full_compilation": True} if must else {"min_block_size": 1}
    options = BuildOptions(dtype, device="cuda:0", extra={"optimization_level": 1, **whole})
    _stay_on_the_host()
    stays = frozenset() if case == "whole" else frozenset({pool})
    with tempfile.TemporaryDirectory() as folder:
        built = build_parts(
            package,
            model,
            options,
            device=None,
            timing_cache=Path(folder) / "timing.cache",
            torch_executed_ops=stays,
        )
        return _told(built, Path(folder))


def _stay_on_the_host() -> None:
    """Keep the model's tensors where there is memory; the engines are for the first GPU."""
    import dataclasses

    from edgejoule.inference import torch_export
    from edgejoule.inference.trt import torch_build

    def on_host(function: Any) -> Any:
        return lambda one, options: function(one, dataclasses.replace(options, device="cpu"))

    torch_build.export_program = on_host(torch_export.export_program)
    torch_build.to_device = on_host(torch_export.to_device)


def _told(built: Any, folder: Path) -> dict[str, Any]:
    from edgejoule.inference.torch_graph import describe_layers, executed_nodes
    from edgejoule.inference.trt.describe import describe_engine
    from edgejoule.inference.trt.torch_compile import applied, origin_of
    from edgejoule.inference.trt.torch_parts import slot_of
    from edgejoule.inference.trt.torch_program import load_program, save_program

    save_program(built.parts.module, folder)
    import torch

    again = load_program(folder, "cpu", lambda _number: torch.nn.Identity())
    paths = tuple(name for name, _ in net().named_modules())
    layers = []
    nodes = executed_nodes(built.parts.module.graph)
    for node, layer in zip(nodes, describe_layers(built.parts.module), strict=True):
        slot = slot_of(node)
        if slot is None:
            layers.append([layer.name, layer.module_path, layer.operation])
            continue
        # What the inspector says of a plan needs a GPU; its names are those of the network, before
        # anything is fused.
        part = built.parts.engines[slot]
        (names,) = (layers for inputs, layers in NETWORKS if inputs == list(part.inputs))
        text = json.dumps({"Layers": names, "Bindings": []})
        own = describe_engine(text, origin=origin_of(built.compiled, part.inputs, paths))
        layers += [[one.name, one.module_path, one.operation] for one in own]
    return {
        "version": built.compiled.version,
        "attempts": list(built.attempts),
        "applied": applied(built.compiled),
        "engines": [
            [one.name, one.held_by, len(one.plan), one.inputs, one.outputs, one.single]
            for one in built.parts.engines
        ],
        "nodes": [node.name for node in built.parts.module.graph.nodes],
        "again": [node.name for node in again.graph.nodes],
        "layers": layers,
        "outputs": [
            str(node.meta["val"][0].dtype if isinstance(node.meta["val"], list) else "")
            for node in nodes
            if slot_of(node) is not None
        ],
    }


def swallowed(package: Any) -> dict[str, Any]:
    """What `compile` itself says of arguments that it does not have."""
    import warnings

    import torch

    from edgejoule.inference.trt.torch_compile import compile_function

    function, parameters, _ = compile_function(package)
    x = torch.randn(1, 3, 16, 16)
    program = torch.export.export(net(), (x,))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        function(program, inputs=(x,), enabled_precisions={torch.float16}, nonsense=3, dryrun=True)
    return {"said": [str(one.message) for one in told], "parameters": parameters}


def main() -> None:
    """Print what was seen of every case."""
    from edgejoule.errors import EdgejouleError

    package = stub_driver()
    _stay_on_the_host()
    seen: dict[str, Any] = {"swallowed": swallowed(package)}
    for case in sys.argv[1:]:
        try:
            seen[case] = observe(package, case)
        except EdgejouleError as error:
            seen[case] = {"error": type(error).__name__, "text": str(error)}
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
