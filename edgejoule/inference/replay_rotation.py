"""What of a layer's data comes from memory in the network, and how replay keeps it so.

A layer that repeats alone finds everything it read last time in the cache. In the network a weight
is read once per inference, and if the rest of the inference does not fit into the cache beside it,
it comes from memory every time. So for every tensor that a layer reads, the *reuse distance* is
counted: the bytes of distinct tensors touched since it was touched last, itself included, over an
inference that repeats. Where that exceeds the last-level cache, replay has as many copies in turn
as it takes for each to be out of the cache again (the stack distance of an LRU cache; Mattson et
al., "Evaluation techniques for storage hierarchies", IBM Systems Journal 9, 1970).

Standard library alone. Only the last-level cache is looked at: what a smaller one nearer to the
core holds between two layers is not reproduced.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

MARGIN = 1.5  # caches are not quite LRU: so much more than the cache is touched between two uses

Touched = Mapping[str, int]
"""Tensor -> its bytes."""

_SYSFS = Path("/sys/devices/system/cpu")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


def reuse_distances(steps: Sequence[tuple[Touched, Touched]]) -> list[dict[str, int]]:
    """Return the reuse distance of every tensor that each step reads.

    Args:
        steps: What each step of an inference reads and writes, in the order of execution; names
            are of memory, so that two names of one buffer must be given as one.

    Returns:
        Per step, tensor -> bytes touched since its last use, itself included. The inference is
        taken to repeat: what is read once per inference has the whole of it between two uses.
    """
    recency: dict[str, int] = {}  # the most recently used last
    found: list[dict[str, int]] = []
    for round_ in range(2):
        for reads, writes in steps:
            if round_:
                found.append({name: _distance(recency, name, reads[name]) for name in reads})
            for name, nbytes in (*reads.items(), *writes.items()):
                recency.pop(name, None)
                recency[name] = nbytes
    return found


def _distance(recency: dict[str, int], name: str, nbytes: int) -> int:
    """Bytes used since `name` was, which was used at least once."""
    total = nbytes
    for other in reversed(recency):
        if other == name:
            break
        total += recency[other]
    return total


def shared_buffers(
    steps: Sequence[tuple[Touched, Touched]], kept: Iterable[str] = ()
) -> dict[str, tuple[str, int]]:
    """Return which memory each tensor lies in, as a planner that reuses memory places them.

    A tensor's memory is free for the next that fits once its last reader is done: the smallest free
    piece that is large enough, else the largest is taken to grow. Runtimes differ in detail; what
    counts here is that activations do not take memory of their own each.

    Args:
        steps: As for `reuse_distances`.
        kept: Tensors that keep their memory to themselves (weights, inputs, outputs).

    Returns:
        Tensor -> the memory's name (of the first tensor in it) and the tensor's bytes.
    """
    own = set(kept)
    last: dict[str, int] = {}
    for number, (reads, writes) in enumerate(steps):
        for name in (*reads, *writes):
            last[name] = number
    free: list[tuple[int, str]] = []
    sizes: dict[str, int] = {}
    place: dict[str, tuple[str, int]] = {}
    for number, (reads, writes) in enumerate(steps):
        for name, nbytes in reads.items():
            place.setdefault(name, (name, nbytes))  # nothing wrote it: it was there before
        for name, nbytes in writes.items():
            if name in place:
                continue
            found = None
            if name not in own and free:
                found = min((one for one in free if one[0] >= nbytes), default=max(free))
                free.remove(found)
            buffer = name if found is None else found[1]
            sizes[buffer] = max(nbytes, 0 if found is None else found[0])
            place[name] = (buffer, nbytes)
        for name in {**reads, **writes}:
            buffer = place[name][0]
            if last[name] == number and name not in own and buffer in sizes:
                free.append((sizes[buffer], buffer))
    return place


def is_cold(reuse_distance: int, cache_bytes: int | None) -> bool:
    """Whether a tensor comes from memory; without a known cache nothing is said to."""
    return cache_bytes is not None and reuse_distance > cache_bytes


def copies_needed(
    cache_bytes: int | None, cold_bytes: int, memory_bytes: int, cap: int = 4096
) -> int:
    """Return how many copies of a layer's cold tensors to have in turn.

    Args:
        cache_bytes: Last-level cache; None: not known, one copy.
        cold_bytes: Of all its cold tensors together, once; 0: one copy.
        memory_bytes: What the copies may take together.
        cap: Most copies for another reason.

    Returns:
        At least 1. `stays_cold` says whether it is enough.
    """
    if cache_bytes is None or cold_bytes <= 0:
        return 1
    wanted = -(-math.ceil(MARGIN * cache_bytes) // cold_bytes)
    return max(1, min(wanted, memory_bytes // cold_bytes, cap))


def stays_cold(copies: int, cold_bytes: int, cache_bytes: int | None) -> bool:
    """Whether that many copies in turn exceed the cache."""
    return cache_bytes is None or cold_bytes <= 0 or copies * cold_bytes > cache_bytes


def last_level_cache_bytes(cpus: Iterable[int] | None = None, root: Path = _SYSFS) -> int | None:
    """Return the last-level cache of some CPUs together, from sysfs; None if it does not say.

    Several clusters each have one of their own (Jetson Orin, AMD); all that these CPUs use count.

    Args:
        cpus: Which; None: those this process may run on.
        root: Kernel's folder of CPUs (Documentation/ABI/testing/sysfs-devices-system-cpu).
    """
    if cpus is None:
        allowed = getattr(os, "sched_getaffinity", None)
        cpus = allowed(0) if allowed else range(os.cpu_count() or 1)
    found: dict[tuple[int, str], int] = {}
    for cpu in cpus:
        own: list[tuple[int, str, int]] = []
        for index in (root / f"cpu{cpu}" / "cache").glob("index*"):
            try:
                if (index / "type").read_text(encoding="ascii").strip() == "Instruction":
                    continue
                level = int((index / "level").read_text(encoding="ascii"))
                shared = (index / "shared_cpu_list").read_text(encoding="ascii").strip()
                own.append((level, shared, _bytes((index / "size").read_text(encoding="ascii"))))
            except (OSError, ValueError):
                continue
        if own:
            level, shared, nbytes = max(own)
            found[level, shared] = nbytes
    return sum(found.values()) or None


def _bytes(text: str) -> int:
    """Return a size as sysfs writes it (`32768K`) in bytes."""
    text = text.strip()
    unit = _UNITS.get(text[-1:].upper(), 1)
    return int(text.rstrip("KMGkmg")) * unit


def memory_for_copies(limit_gib: float | None = None) -> int:
    """Return how many bytes of host memory copies in rotation may take: at most 1 GiB.

    A quarter of what is available, and of the limit where one was given.
    """
    limits = [2**30]
    if limit_gib is not None:
        limits.append(int(limit_gib * 2**30 / 4))
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:  # not Linux
        text = ""
    kib = re.search(r"^MemAvailable: +([0-9]+) kB", text, re.MULTILINE)
    if kib is not None:
        limits.append(int(kib[1]) * 1024 // 4)
    return min(limits)
