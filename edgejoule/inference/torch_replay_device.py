"""What replay asks of the device: its cache, its free memory, about how long something takes."""

from __future__ import annotations

import os
from typing import Any

from edgejoule.inference.replay_rotation import last_level_cache_bytes

UNKNOWN_CACHE_BYTES = 64 * 2**20  # not less than today's GPUs and boards have


def cache_bytes(device: str) -> int:
    """Return the device's last-level cache, or `UNKNOWN_CACHE_BYTES`."""
    if not device.startswith("cuda"):
        return last_level_cache_bytes() or UNKNOWN_CACHE_BYTES
    import torch

    found = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", None)
    return int(found or UNKNOWN_CACHE_BYTES)


def free_bytes(device: str) -> int:
    """Return what the device has free; what torch holds and does not use counts."""
    if not device.startswith("cuda"):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def timed_ns(function: Any, arguments: Any) -> float:
    """Return about how long one execution takes on the GPU, its launch included."""
    import torch

    cuda: Any = torch.cuda  # without types
    args, kwargs = arguments
    function(*args, **kwargs)
    begin = cuda.Event(enable_timing=True)
    end = cuda.Event(enable_timing=True)
    begin.record()
    function(*args, **kwargs)
    end.record()
    end.synchronize()
    return max(1.0, float(begin.elapsed_time(end)) * 1e6)
