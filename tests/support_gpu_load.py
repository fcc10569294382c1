"""A program that loads a GPU, or leaves it idle, and reads the driver's energy counters itself.

    python -m tests.support_gpu_load SECONDS idle|loaded

Prints one JSON object per line as it goes: `{"t_ns": ..., "energy_mj": {uuid: mJ, ...}}` for all
GPUs that NVML shows, at the begin and at the end, and `{"uuid": ...}` of torch's `cuda:0`.
"""

from __future__ import annotations

import json
import sys
import time

from edgejoule.power.gpus import nvml_gpus
from edgejoule.power.nvml import open_or_explain


def main(seconds: float, kind: str) -> None:
    nvml = open_or_explain()
    readers = {gpu.uuid: nvml.energy_reader(nvml.by_uuid(gpu.uuid)) for gpu in nvml_gpus(nvml)}

    def say() -> None:
        # At a tick of the first counter, so that what was counted before it was told is the same
        # at both ends.
        first = next(iter(readers.values()))
        old = first()
        while first() == old:
            time.sleep(0.0005)
        energy = {uuid: read() for uuid, read in readers.items()}
        print(json.dumps({"t_ns": time.monotonic_ns(), "energy_mj": energy}), flush=True)

    step = None
    if kind == "loaded":
        import torch

        uuid = str(torch.cuda.get_device_properties(0).uuid)
        print(json.dumps({"uuid": uuid}), flush=True)
        matrix = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)

        def step() -> None:
            for _ in range(10):
                matrix @ matrix
            torch.cuda.synchronize()

        begin = time.monotonic()
        while time.monotonic() - begin < 3:  # the clocks settle
            step()
    say()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if step is None:
            time.sleep(0.05)
        else:
            step()
    say()


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2])
