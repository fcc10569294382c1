"""An execution context of our own: shapes, addresses, launch, profiler.

Behaviour is taken from `NvInferRuntime.h` and the Python bindings (`python/src/infer/pyCore.cpp`)
of release 10 unless a docstring says otherwise.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from edgejoule.errors import MeasurementError, UsageError
from edgejoule.inference.common import short

if TYPE_CHECKING:
    from edgejoule.inference.trt.engine import Engine


def short_log(text: str, limit: int = 300) -> str:
    """Return logged text as one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."


class Context:
    """An execution context with its shapes and addresses.

    Attributes:
        profile: The optimisation profile.
        emits_synchronously: Whether an inference with a profiler waits for its end and reports
            by itself; False where TensorRT lets the caller ask for the report
            (`enqueue_emits_profile`), so that the launch is as without a profiler.
    """

    def __init__(self, engine: Engine, profile: int, stream: int) -> None:
        self.engine = engine
        self.profile = profile
        self.emits_synchronously = True
        self._stream = stream
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._allocators: dict[str, Any] = {}
        self._attached: Any = None
        self._context: Any = None
        self._make()

    def _make(self) -> None:
        engine = self.engine
        before = engine.log.error_count
        context = engine.raw.create_execution_context()
        if context is None:
            said = "; ".join(engine.log.errors_since(before)) or engine.log.last_error()
            logged = short_log(said)
            raise MeasurementError(
                f"TensorRT makes no execution context ({logged})",
                "free memory of the GPU, raise --memory-limit-gib, or use a smaller batch",
            )
        self._context = context
        if self.profile:
            try:  # the bindings raise where the C++ returns false
                context.set_optimization_profile_async(self.profile, self._stream)
            except RuntimeError as error:
                raise MeasurementError(
                    f"TensorRT does not take optimisation profile {self.profile} ({short(error)})"
                ) from error
        # An engine built with full names writes them into NVTX marks at every launch.
        with contextlib.suppress(AttributeError):
            context.nvtx_verbosity = engine.trt.ProfilingVerbosity.NONE

    @property
    def raw(self) -> Any:
        """The `IExecutionContext`.

        Raises:
            MeasurementError: It was given back.
        """
        if self._context is None:
            raise MeasurementError("the execution context was closed")
        return self._context

    def nvtx_verbosity(self) -> str:
        """Return what TensorRT says of its NVTX marks."""
        verbosity = getattr(self.raw, "nvtx_verbosity", None)
        return "unknown" if verbosity is None else str(verbosity.name)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set the shape of an input.

        Raises:
            UsageError: The engine or its profile does not allow it.
        """
        binding = self.engine.binding(name)
        fits = len(shape) == len(binding.shape) and all(
            fixed in {-1, size} for fixed, size in zip(binding.shape, shape, strict=True)
        )
        if not fits or not self.raw.set_input_shape(name, tuple(shape)):
            allowed = self.engine.optimisation_profiles()
            wide = allowed[self.profile].get(name) if self.profile < len(allowed) else None
            if wide is None:
                mend = f"it takes {list(binding.shape)}"
            else:
                mend = (
                    f"optimisation profile {self.profile} takes {list(wide.least)} to "
                    f"{list(wide.most)}"
                )
            raise UsageError(f"the engine's input {name} cannot be {list(shape)}", mend)
        self._shapes[name] = tuple(shape)

    def check_shapes(self) -> None:
        """Have TensorRT work out all shapes.

        Raises:
            MeasurementError: An input has no shape or, if it is a shape tensor, no values.
        """
        try:
            missing = list(self.raw.infer_shapes())
        except RuntimeError as error:
            raise MeasurementError(
                f"TensorRT cannot work out the shapes ({short(error)}; "
                f"{short_log(self.engine.log.last_error())})"
            ) from error
        if missing:
            raise MeasurementError(f"these inputs have no shape yet: {', '.join(missing)}")

    def output_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an output for the shapes set; -1 where it depends on values."""
        return tuple(int(size) for size in self.raw.get_tensor_shape(name))

    def largest_output(self, name: str) -> int:
        """Return the most bytes that an output can take for the shapes set.

        Raises:
            MeasurementError: TensorRT does not say.
        """
        size = int(self.raw.get_max_output_size(name))
        if size < 0:
            raise MeasurementError(f"TensorRT does not say how large output {name} can be")
        return size

    def bind(self, name: str, address: int) -> None:
        """Set where a tensor lies (`setTensorAddress`).

        Raises:
            MeasurementError: TensorRT refuses the address.
        """
        if not self.raw.set_tensor_address(name, address):
            raise MeasurementError(
                f"TensorRT does not take the address of {name} "
                f"({short_log(self.engine.log.last_error())})"
            )
        self._addresses[name] = address

    def allocate_output(self, name: str, allocator: Any) -> None:
        """Set the `IOutputAllocator` of an output whose shape depends on values.

        Raises:
            MeasurementError: TensorRT refuses it.
        """
        if not self.raw.set_output_allocator(name, allocator):
            raise MeasurementError(f"TensorRT does not take an allocator for output {name}")
        self._allocators[name] = allocator

    def enqueue(self, stream: int) -> None:
        """Launch an inference; its outputs are there when the stream has come to its end.

        Raises:
            MeasurementError: TensorRT does not launch it.
        """
        if not self._context.execute_async_v3(stream):
            raise MeasurementError(
                f"TensorRT did not run the inference ({short_log(self.engine.log.last_error())})",
                "the log of the run has TensorRT's own words",
            )

    def attach(self, recorder: Any) -> None:
        """Have every inference from here on report its layers to the recorder.

        The report is asked for by `report` where TensorRT can wait for that; before, an inference
        reports by itself before it returns (`emits_synchronously`).

        Raises:
            MeasurementError: TensorRT does not take it.
        """
        context = self.raw
        # Before the profiler: no inference may run with a profiler that reports by itself.
        self.emits_synchronously = True
        if hasattr(context, "enqueue_emits_profile"):
            context.enqueue_emits_profile = False
            self.emits_synchronously = bool(context.enqueue_emits_profile)
        if self._attached is recorder:
            return  # the bindings would keep one more reference for each time
        context.profiler = recorder
        if context.profiler is None:
            raise MeasurementError(
                f"TensorRT does not take the profiler ({short_log(self.engine.log.last_error())})"
            )
        self._attached = recorder

    def detach(self) -> None:
        """Be rid of the recorder: a new context takes the place of this one.

        A profiler cannot be taken off: `context.profiler = None` raises nothing, TensorRT logs
        "Parameter check failed, condition: (profiler) != nullptr", and the profiler goes on being
        called (NVIDIA's cookbook, 02-API/Profiler, seen with TensorRT 11.0; torch_tensorrt also
        makes a new context). The old one is freed first, so that activations never take twice
        their memory; shapes and addresses are set again. CUDA graphs captured from it are void.
        """
        if self._attached is None:
            return
        self._context = None
        self._attached = None
        self.emits_synchronously = True
        self._make()
        for name, shape in self._shapes.items():
            self.set_input_shape(name, shape)
        for name, address in self._addresses.items():
            self.bind(name, address)
        for name, allocator in self._allocators.items():
            self.allocate_output(name, allocator)

    def report(self) -> None:
        """Have the last inference reported to the recorder; its stream has been waited for.

        `report_to_profiler` holds the interpreter's lock while it waits for the stream, hence the
        caller's wait before it.

        Raises:
            MeasurementError: There is nothing to report (no profiler, capturing, no inference).
        """
        if not self.emits_synchronously and not self._context.report_to_profiler():
            raise MeasurementError(
                f"TensorRT has no layer times to report "
                f"({short_log(self.engine.log.last_error()) or 'without a word'})",
                "CUDA graphs and layer times exclude each other; see the log of the run",
            )

    def close(self) -> None:
        """Free the context, and with it the recorder that it keeps."""
        self._context = None
        self._attached = None
        self._allocators = {}
