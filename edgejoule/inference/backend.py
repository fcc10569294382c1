"""The one small Protocol behind which every runtime stands, and what a layer is.

A backend lives twice. In the *set-up process* `build` turns a `LoadedModel` into artefacts on disk
and says what its layers are. In the *measuring process* `open` loads those artefacts into a
`Session`; its `infer` is the clean pass, its `profiler` the profiled pass. Nothing else crosses
between the two but files, so that the memory of the set-up goes with its process.

A network's forward pass is a workload of one stage; pipelines of several come on top of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np

    from edgejoule.inference.workload import InputSpec, LoadedModel


# tf32 is float32 in memory with products in TensorFloat-32; float32 forbids that.
DTYPES = ("float32", "tf32", "float16", "bfloat16", "int8", "fp8")


@dataclass(frozen=True)
class Availability:
    """Whether a backend can run here; `why` is one clause either way, `mend` what to do if not."""

    usable: bool
    why: str
    mend: str = ""


@dataclass(frozen=True)
class BuildOptions:
    """What changes what is built or how it runs.

    Attributes:
        dtype: One of `DTYPES`: already resolved, never `auto`.
        device: `cpu` or `cuda:<index>`.
        threads: Threads of the CPU runtime, 0 for its own default.
        seed: Seed of everything random in the build.
        extra: Backend's own options by name (optimization_level, min_block_size, ...).
        memory_limit_gib: What the process may take of the device's memory, in GiB; None: no limit.
        calibration: What `int8` and `fp8` are calibrated with: a folder of images or `.npy` files,
            a `.npy` file, or a kind of generated input (`normal`, ...).
        calibration_cache: File with the ranges found by an earlier calibration, checked before it
            is used; written if it is not there.
        cache: Folder of this experiment's timing cache; None keeps none.
        killed: How often this build was killed for want of memory: it starts that much smaller.
    """

    dtype: str
    device: str = "cpu"
    threads: int = 0
    seed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)
    memory_limit_gib: float | None = None
    calibration: str | None = None
    calibration_cache: str | None = None
    cache: str | None = None
    killed: int = 0


@dataclass(frozen=True)
class Tensor:
    """A tensor of a layer; `shape` is None where the runtime does not say."""

    name: str
    shape: tuple[int, ...] | None = None
    dtype: str | None = None


LayerKind = Literal[
    "convolution", "deconvolution", "dense", "matrix_product", "attention", "pooling",
    "normalisation", "activation", "softmax", "elementwise", "reduction", "embedding", "recurrent",
    "reformat", "shape", "quantise", "nothing", "fused",
]  # fmt: skip
"""What a layer does: `shape` moves or views data as the model asks, `reformat` as the runtime does
for itself, `nothing` takes no time by design, `fused` is several of equal weight in one."""


@dataclass(frozen=True)
class Layer:
    """One unit that a backend executes and times. Every field but the first two may be unknown.

    Attributes:
        index: Position within an inference; layers are told apart by it, never by name alone.
        name: The runtime's own name.
        type: Operation (`Conv`, `aten.convolution.default`, `CaskConvolution`).
        inputs: Input tensors, without weights where the runtime tells them apart.
        outputs: Output tensors.
        attributes: What else the runtime says of it, under the runtime's own names.
        module_path: Module in the user's model (`layer1.0.conv1`), the main one where several were
            fused; None is *unmapped*.
        nodes: The ONNX or aten nodes behind it.
        operation: What it does in words common to all backends (`LayerKind`); None is *unknown*.
        kernel: Window per spatial axis.
        stride: Per spatial axis.
        padding: Per spatial axis if both sides are equal, else all begins, then all ends.
        dilation: Per spatial axis.
        groups: Groups of a convolution.
        weights: Number of weights, bias included.
        tactic: What the runtime calls the implementation that it chose.
        fused: Operations in one layer, the main one first, as types of the nodes behind it.
        modules: All modules behind it, in the order of execution.
        flops: Floating-point operations of one execution (a multiply-add counts two), where they
            follow from the shapes; None is *unknown*.
        bytes_moved: Bytes of inputs, outputs and weights, each counted once.
    """

    index: int
    name: str
    type: str | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    module_path: str | None = None
    nodes: tuple[str, ...] = ()
    flops: int | None = None
    bytes_moved: int | None = None
    operation: LayerKind | None = None
    kernel: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    padding: tuple[int, ...] | None = None
    dilation: tuple[int, ...] | None = None
    groups: int | None = None
    weights: int | None = None
    tactic: str | None = None
    fused: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


@dataclass(frozen=True)
class EngineDescription:
    """What `build` made: goes to `engine.json` as it is.

    Attributes:
        backend: Name of the backend.
        versions: Versions of the libraries that built it.
        layers: The layers in the order of execution.
        settings: What was really applied (threads, optimisation level, cudnn.benchmark, ...).
        start_offsets: Whether the backend measures when each layer starts.
        keep: Files among the artefacts that stay with the run as they are (the inspector's JSON).
        overlap: Whether layers may run at the same time (several streams), so that their sum may
            exceed the inference.
    """

    backend: str
    versions: dict[str, str]
    layers: tuple[Layer, ...]
    settings: dict[str, Any]
    start_offsets: bool
    keep: tuple[str, ...] = ()
    overlap: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, without the names of kept files."""
        plain = asdict(self)
        del plain["keep"]
        return plain


@dataclass(frozen=True)
class Adopted:
    """A finished engine taken in from a file, in place of a model that is built.

    Attributes:
        name: Short name, becomes the run's.
        inputs: The engine's inputs.
        source: Where it comes from: what built it, as far as the file says, and its SHA-256.
        engine: Its description.
    """

    name: str
    inputs: tuple[InputSpec, ...]
    source: dict[str, Any]
    engine: EngineDescription


@dataclass(frozen=True)
class LayerTimes:
    """Times of the layers of consecutive profiled inferences, one row per layer execution.

    Attributes:
        inference: int32 (n,), counted from 0 within the chunk that was harvested.
        layer: int16 (n,), index into the engine's layers.
        duration_ns: int64 (n,).
        start_offset_ns: int64 (n,) from the inference's `start_ns`, or None where the backend
            gives durations only.
        inferences: How many inferences the runtime reported; the caller compares it with how many
            it ran, since profilers are known to stop silently.
        held_ns: int64 (inferences,), time within each that is there because of the profiler alone:
            the device kept waiting for the host, so that no launch lies within a layer, and busy
            with the profiler's events. None where a profiler adds no such time.
    """

    inference: np.ndarray
    layer: np.ndarray
    duration_ns: np.ndarray
    start_offset_ns: np.ndarray | None
    inferences: int
    held_ns: np.ndarray | None = None


class Profiler(Protocol):
    """Per-layer timing of a session, in chunks: start, infer n times, harvest, start again."""

    chunk_inferences: int  # most inferences between `start` and `harvest`

    def start(self, inferences: int) -> None:
        """Prepare a chunk of this many inferences; may be slow (a new session, warm-up)."""

    def infer(self, which: int) -> None:
        """Run one inference on input set `which`; return when its outputs are computed."""

    def after(self) -> None:
        """Do what must follow an inference before the next and is no part of either."""

    def harvest(self, spans: Sequence[tuple[int, int]]) -> LayerTimes:
        """End the chunk and return its layer times; may be slow.

        Args:
            spans: Start and end of each inference as the caller stamped them, CLOCK_MONOTONIC ns;
                for backends that must place their own clock.
        """

    def close(self) -> None:
        """Give everything back."""


class Session(Protocol):
    """An engine loaded in the measuring process."""

    def bind(self, inputs: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Take the input sets (each name -> array), cast and move them to the device."""

    def infer(self, which: int) -> None:
        """Run one inference on input set `which`; return when its outputs are computed."""

    def outputs(self, which: int) -> list[np.ndarray]:
        """Run one inference and return its outputs as float arrays, flattened from any structure.

        Raises:
            MeasurementError: The model returns nothing.
        """

    def profiler(self) -> Profiler:
        """Return a profiler for this session."""

    def settings(self) -> dict[str, Any]:
        """What is in force while measuring (threads, cudnn.benchmark, TF32, ...)."""

    def close(self) -> None:
        """Give everything back."""


class Backend(Protocol):
    """A runtime that can build and run models."""

    name: str
    form: str  # the form of model it builds from: "torch" or "onnx"
    options: tuple[str, ...]  # the keys of `BuildOptions.extra` that it knows

    def availability(self) -> Availability:
        """Say by trying, cheaply, whether this backend can run here."""

    def dtypes(self, device: str) -> tuple[str, ...]:
        """Dtypes that `build` accepts on that device, the default first."""

    def devices(self) -> tuple[str, ...]:
        """Devices it can run on here, the preferred first."""

    def build(
        self, model: LoadedModel, options: BuildOptions, artefacts: Path
    ) -> EngineDescription:
        """Write the artefacts of `model` into the folder and describe the engine."""

    def open(self, artefacts: Path, options: BuildOptions) -> Session:
        """Load the artefacts."""


class EngineBackend(Backend, Protocol):
    """A runtime that can also take a finished engine from a file (`--engine`)."""

    def adopt(
        self,
        engine: Path,
        options: BuildOptions,
        artefacts: Path,
        input_shape: tuple[int, ...] | None = None,
    ) -> Adopted:
        """Check an engine file, write artefacts as `build` does, and describe the engine.

        Args:
            engine: The file.
            options: As for `build`.
            artefacts: Where to write.
            input_shape: Shape asked for the first input, None for the engine's own.

        Raises:
            UsageError: The file is no engine, or one that cannot run here; with the reason.
        """
