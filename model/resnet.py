"""ResNet and ResNeXt: convolutions with shortcuts (He and others, 2015; Xie and others, 2016).

ResNeXt's middle convolutions are grouped: `32x4d` is 32 groups of width 4.
"""

from __future__ import annotations

from model.loading.network import Network

NETWORKS = (
    Network(
        "resnet18",
        "resnet",
        "resnet18",
        parameters=11_689_512,
        gflops=3.628,
        weights="ResNet18_Weights.IMAGENET1K_V1",
        weights_file="resnet18-f37072fd.pth",
        download_mib=44.661,
    ),
    Network(
        "resnet34",
        "resnet",
        "resnet34",
        parameters=21_797_672,
        gflops=7.328,
        weights="ResNet34_Weights.IMAGENET1K_V1",
        weights_file="resnet34-b627a593.pth",
        download_mib=83.275,
    ),
    Network(
        "resnet50",
        "resnet",
        "resnet50",
        parameters=25_557_032,
        gflops=8.178,
        weights="ResNet50_Weights.IMAGENET1K_V2",
        weights_file="resnet50-11ad3fa6.pth",
        download_mib=97.79,
    ),
    Network(
        "resnet101",
        "resnet",
        "resnet101",
        parameters=44_549_160,
        gflops=15.6,
        weights="ResNet101_Weights.IMAGENET1K_V2",
        weights_file="resnet101-cd907fc2.pth",
        download_mib=170.53,
    ),
    Network(
        "resnet152",
        "resnet",
        "resnet152",
        parameters=60_192_808,
        gflops=23.03,
        weights="ResNet152_Weights.IMAGENET1K_V2",
        weights_file="resnet152-f82ba261.pth",
        download_mib=230.474,
    ),
    Network(
        "resnext50_32x4d",
        "resnext",
        "resnext50_32x4d",
        parameters=25_028_904,
        gflops=8.461,
        weights="ResNeXt50_32X4D_Weights.IMAGENET1K_V2",
        weights_file="resnext50_32x4d-1a0047aa.pth",
        download_mib=95.833,
    ),
    Network(
        "resnext101_32x8d",
        "resnext",
        "resnext101_32x8d",
        parameters=88_791_336,
        gflops=32.83,
        weights="ResNeXt101_32X8D_Weights.IMAGENET1K_V2",
        weights_file="resnext101_32x8d-110c445d.pth",
        download_mib=339.673,
    ),
    Network(
        "resnext101_64x4d",
        "resnext",
        "resnext101_64x4d",
        parameters=83_455_272,
        gflops=30.92,
        weights="ResNeXt101_64X4D_Weights.IMAGENET1K_V1",
        weights_file="resnext101_64x4d-173b62eb.pth",
        download_mib=319.318,
    ),
)
