"""MobileNet: depthwise and pointwise convolutions for small processors (2018, 2019).

Version 3 adds hard-swish and squeeze-and-excitation.
"""

from __future__ import annotations

from model.loading.network import Network

NETWORKS = (
    Network(
        "mobilenet_v2",
        "mobilenet",
        "mobilenet_v2",
        parameters=3_504_872,
        gflops=0.6015,
        weights="MobileNet_V2_Weights.IMAGENET1K_V2",
        weights_file="mobilenet_v2-7ebf99e0.pth",
        download_mib=13.598,
    ),
    Network(
        "mobilenet_v3_small",
        "mobilenet",
        "mobilenet_v3_small",
        parameters=2_542_856,
        gflops=0.113,
        weights="MobileNet_V3_Small_Weights.IMAGENET1K_V1",
        weights_file="mobilenet_v3_small-047dcff4.pth",
        download_mib=9.829,
    ),
    Network(
        "mobilenet_v3_large",
        "mobilenet",
        "mobilenet_v3_large",
        parameters=5_483_032,
        gflops=0.4332,
        weights="MobileNet_V3_Large_Weights.IMAGENET1K_V2",
        weights_file="mobilenet_v3_large-5c1a4163.pth",
        download_mib=21.107,
    ),
)
