"""AlexNet: five convolutions and three very wide linear layers (Krizhevsky and others, 2012).

Most of its weights lie in the linear layers, so it moves more bytes per operation than most.
"""

from __future__ import annotations

from model.loading.network import Network

NETWORKS = (
    Network(
        "alexnet",
        "alexnet",
        "alexnet",
        parameters=61_100_840,
        gflops=1.428,
        weights="AlexNet_Weights.IMAGENET1K_V1",
        weights_file="alexnet-owt-7be5be79.pth",
        download_mib=233.087,
    ),
)
