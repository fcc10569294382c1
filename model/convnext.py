"""ConvNeXt: large depthwise convolutions with layer normalisation (Liu and others, 2022)."""

from __future__ import annotations

from model.loading.network import Network

NETWORKS = (
    Network(
        "convnext_tiny",
        "convnext",
        "convnext_tiny",
        parameters=28_589_128,
        gflops=8.911,
        weights="ConvNeXt_Tiny_Weights.IMAGENET1K_V1",
        weights_file="convnext_tiny-983f1562.pth",
        download_mib=109.119,
    ),
    Network(
        "convnext_small",
        "convnext",
        "convnext_small",
        parameters=50_223_688,
        gflops=17.37,
        weights="ConvNeXt_Small_Weights.IMAGENET1K_V1",
        weights_file="convnext_small-0c510722.pth",
        download_mib=191.703,
    ),
    Network(
        "convnext_base",
        "convnext",
        "convnext_base",
        parameters=88_591_464,
        gflops=30.71,
        weights="ConvNeXt_Base_Weights.IMAGENET1K_V1",
        weights_file="convnext_base-6075fbad.pth",
        download_mib=338.064,
    ),
)
