"""`--memory-limit-gib`: what holds a process to it, and how hard.

    torch on a GPU   its caching allocator refuses   hard for what torch allocates
    TensorRT         our allocator refuses           hard for engines, contexts, inputs, outputs
    a CPU            nobody refuses                  soft: the parent watches and counts

What no allocator sees is the CUDA context with the kernels of libraries (some hundred MiB); the
parent watches it as part of the board's or the GPU's memory.

On a CPU the kernel could refuse (RLIMIT_DATA, setrlimit(2)). Tried with ResNet-18 on torch 2.13 and
ONNX Runtime 1.31 at some 90 limits, most ended in an exception that a user can read, but not all:
importing torch ended in a segmentation fault, libgomp ended the process because a thread could not
be started, and so did the dynamic linker for want of thread-local data. A limit that ends in such
deaths is worse than one that is watched.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from edgejoule.errors import UsageError
from edgejoule.inference.backend import BuildOptions
from edgejoule.inference.trt.cuda_types import OUT_OF_MEMORY, CudaError, CudaOutOfMemory

GIB = 2**30
MIB = 2**20
_FLAG = "--memory-limit-gib"
_CONTEXT = "the CUDA context and the kernels of libraries are not counted"

Kind = Literal["hard", "soft", "unavailable", "none"]


@dataclass(frozen=True)
class Enforcement:
    """How a limit is held.

    Attributes:
        limit_bytes: The limit, None: none was asked for.
        kind: `hard`: an allocation beyond it fails; `soft`: it is watched and violations are
            counted; `unavailable`: it could be held neither way; `none`: none was asked for.
        how: By what, and what is not covered.
    """

    limit_bytes: int | None
    kind: Kind
    how: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def limit_bytes(options: BuildOptions) -> int | None:
    """Return the limit that was asked for in bytes, None if none was.

    Raises:
        UsageError: It leaves no memory.
    """
    if options.memory_limit_gib is None:
        return None
    if not options.memory_limit_gib > 0:
        raise UsageError(f"{_FLAG} {options.memory_limit_gib:g} leaves no memory", "give more")
    return round(options.memory_limit_gib * GIB)


def limit_torch(options: BuildOptions) -> Enforcement:
    """Hold torch to the limit on a GPU; on a CPU nothing can.

    `torch.cuda.set_per_process_memory_fraction` bounds what the caching allocator reserves,
    workspaces of cuDNN and cuBLAS included, since torch takes them from there.

    Raises:
        UsageError: The limit leaves no memory.
    """
    limit = limit_bytes(options)
    if limit is None:
        return _none()
    kind, _, index = options.device.partition(":")
    if kind != "cuda":
        return limit_host(options)
    import torch

    device = int(index or 0)
    total = int(torch.cuda.get_device_properties(device).total_memory)
    # A fraction above 1 is refused; all of the memory is a limit that the GPU itself holds.
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    how = f"torch's caching allocator (set_per_process_memory_fraction); {_CONTEXT}"
    if limit >= total:
        how += f"; the GPU itself has {total / GIB:.2f} GiB"
    return Enforcement(limit, "hard", how)


def limit_tensorrt(options: BuildOptions) -> Enforcement:
    """Say how `tensorrt_allocator` holds the limit; it is the allocator that does it.

    Raises:
        UsageError: The limit leaves no memory.
    """
    limit = limit_bytes(options)
    if limit is None:
        return _none()
    how = f"an IGpuAllocator for engines, contexts, inputs and outputs; {_CONTEXT}"
    return Enforcement(limit, "hard", how)


def limit_host(options: BuildOptions) -> Enforcement:
    """Say that a process on the CPU is watched: see above for why the kernel is not asked.

    Raises:
        UsageError: The limit leaves no memory.
    """
    limit = limit_bytes(options)
    if limit is None:
        return _none()
    how = "the parent looks at resident memory once a second and counts; nothing is refused"
    return Enforcement(limit, "soft", how)


class Memory(Protocol):
    """Where device memory comes from; `Cuda` is one."""

    def allocate(self, nbytes: int) -> int:
        """Return an address or raise `CudaOutOfMemory`."""

    def free(self, address: int) -> None:
        """Give it back."""


class OverLimit(CudaOutOfMemory):
    """What was asked for would go beyond `--memory-limit-gib`."""

    def __init__(self, nbytes: int, live_bytes: int, limit: int) -> None:
        text = (
            f"{_FLAG} {limit / GIB:g} refuses {nbytes / MIB:.1f} MiB with "
            f"{live_bytes / MIB:.1f} MiB in use"
        )
        super().__init__(OUT_OF_MEMORY, "over the limit", text, "allocate")
        self.message = text
        self.mend = "give more, or take a smaller batch or --input-shape"


class Budget:
    """Device memory up to a limit, counted; safe to use from several threads.

    Args:
        memory: Where it comes from.
        limit: The most that is live at a time, bytes; None only counts.

    Attributes:
        limit: As given.
        live_bytes: What is allocated now.
        peak_bytes: The most that ever was.
        refusals: How often the limit said no.
        largest_refused_bytes: The largest of those.
    """

    def __init__(self, memory: Memory, limit: int | None) -> None:
        self.limit = limit
        self.live_bytes = 0
        self.peak_bytes = 0
        self.refusals = 0
        self.largest_refused_bytes = 0
        self._why = ""
        self._memory = memory
        self._sizes: dict[int, int] = {}
        self._lock = threading.Lock()

    def allocate(self, nbytes: int) -> int:
        """Return the address of new memory.

        Raises:
            OverLimit: It would go beyond the limit.
            CudaError: The device refuses.
        """
        with self._lock:
            if self.limit is not None and self.live_bytes + nbytes > self.limit:
                self.refusals += 1
                self.largest_refused_bytes = max(self.largest_refused_bytes, nbytes)
                error = OverLimit(nbytes, self.live_bytes, self.limit)
                self._why = str(error)
                raise error
            address = self._memory.allocate(nbytes)
            self._sizes[address] = nbytes
            self.live_bytes += nbytes
            self.peak_bytes = max(self.peak_bytes, self.live_bytes)
            return address

    def free(self, address: int) -> None:
        """Give memory back."""
        with self._lock:
            nbytes = self._sizes.pop(address)
            self.live_bytes -= nbytes
            self._memory.free(address)

    def why(self) -> str:
        """Return why the last allocation failed, for whom only the failure reaches; else nothing.

        TensorRT turns every refusal into "out of memory".
        """
        return self._why

    def forget(self) -> None:
        """Forget why: what failed until now has been answered."""
        self._why = ""

    def note(self, error: CudaError) -> None:
        """Keep an error that cannot be raised where it happens."""
        self._why = str(error)

    def to_json(self) -> dict[str, Any]:
        """Return the counts, for the run's settings."""
        return {
            "allocator_live_bytes": self.live_bytes,
            "allocator_peak_bytes": self.peak_bytes,
            "refusals": self.refusals,
            "largest_refused_bytes": self.largest_refused_bytes,
        }


def tensorrt_allocator(trt: Any, cuda: Memory, limit_bytes: int | None) -> Any:
    """Return a `trt.IGpuAllocator` that takes memory from `cuda` up to a limit.

    It serves TensorRT 8.6 to 11: the bindings call `allocate`, from 10 on maybe
    `allocate_async`, and want a whole number (`pyCore.cpp`, allocHelper): 0 refuses, None is
    reported as an error. `reallocate` says that nothing can be resized in place. Whoever sets it
    keeps it for as long as anything that TensorRT allocated lives.

    Args:
        trt: The module.
        cuda: Where memory comes from: only `allocate` and `free` are called.
        limit_bytes: The limit, None: only count.

    Returns:
        An allocator with a `budget` (`Budget`), which also serves for one's own buffers.
    """
    budget = Budget(cuda, limit_bytes)

    class Allocator(trt.IGpuAllocator):  # type: ignore[misc]  # its base is the module's
        def __init__(self) -> None:
            trt.IGpuAllocator.__init__(self)
            self.budget = budget

        def allocate(self, size: int, alignment: int, flags: int) -> int:
            # cudaMalloc's alignment is at least the one that may be asked for.
            return _or_zero(budget, size)

        def reallocate(self, address: int, alignment: int, new_size: int) -> int:
            return 0

        def deallocate(self, memory: int) -> bool:
            return _freed(budget, memory)

        def free(self, memory: int) -> None:  # until 8.6
            _freed(budget, memory)

        # The bindings hand these the stream at different places.
        def allocate_async(self, size: int, alignment: int, *_rest: int) -> int:
            return _or_zero(budget, size)

        def deallocate_async(self, memory: int, *_rest: int) -> bool:
            return _freed(budget, memory)

    return Allocator()


def _or_zero(budget: Budget, size: int) -> int:
    """Allocate; nothing may be raised into TensorRT."""
    if not size:
        return 0
    return _caught(budget, lambda: budget.allocate(size), 0)


def _freed(budget: Budget, address: int) -> bool:
    def free() -> bool:
        if address:
            budget.free(address)
        return True

    return bool(_caught(budget, free, 0))


def _caught(budget: Budget, work: Callable[[], int], otherwise: int) -> int:
    try:
        return work()
    except CudaError as error:
        if not isinstance(error, OverLimit):
            budget.note(error)
        return otherwise
    except KeyError as error:
        print(f"TensorRT frees {error}, which it was not given", file=sys.stderr)
        return otherwise


def _none() -> Enforcement:
    return Enforcement(None, "none", "no limit was asked for")
