"""VGG: stacks of 3x3 convolutions without shortcuts (Simonyan and Zisserman, 2014)."""

from __future__ import annotations

from model.loading.network import Network

NETWORKS = (
    Network(
        "vgg11",
        "vgg",
        "vgg11",
        parameters=132_863_336,
        gflops=15.22,
        weights="VGG11_Weights.IMAGENET1K_V1",
        weights_file="vgg11-8a719046.pth",
        download_mib=506.84,
    ),
    Network(
        "vgg13",
        "vgg",
        "vgg13",
        parameters=133_047_848,
        gflops=22.62,
        weights="VGG13_Weights.IMAGENET1K_V1",
        weights_file="vgg13-19584684.pth",
        download_mib=507.545,
    ),
    Network(
        "vgg16",
        "vgg",
        "vgg16",
        parameters=138_357_544,
        gflops=30.94,
        weights="VGG16_Weights.IMAGENET1K_V1",
        weights_file="vgg16-397923af.pth",
        download_mib=527.796,
    ),
    Network(
        "vgg19",
        "vgg",
        "vgg19",
        parameters=143_667_240,
        gflops=39.26,
        weights="VGG19_Weights.IMAGENET1K_V1",
        weights_file="vgg19-dcbb9e9d.pth",
        download_mib=548.051,
    ),
)
