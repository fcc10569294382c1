"""LeNet-5: three convolutions' worth of work for 32x32 digits (LeCun and others, 1998).

torchvision has none, so it is defined here. Differences from the paper: the subsampling layers
have no trainable coefficient, the second convolution sees all six maps, and the last layer is a
plain linear one instead of radial basis functions.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from model.loading.network import Network


def lenet() -> Any:
    """Return LeNet-5: (batch, 1, 32, 32) -> (batch, 10)."""
    from torch import nn

    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(1, 6, kernel_size=5),
            tanh1=nn.Tanh(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(6, 16, kernel_size=5),
            tanh2=nn.Tanh(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(16 * 5 * 5, 120),
            tanh3=nn.Tanh(),
            fc2=nn.Linear(120, 84),
            tanh4=nn.Tanh(),
            fc3=nn.Linear(84, 10),
        )
    )


NETWORKS = (
    Network(
        "lenet",
        "lenet",
        lenet,
        parameters=61_706,
        gflops=0.000833,
        input_shape=(1, 1, 32, 32),
        # Mean and standard deviation of the handwritten digits it is trained on.
        mean=(0.1307,),
        std=(0.3081,),
    ),
)
