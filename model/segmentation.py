"""FCN: a ResNet-50 that labels every pixel (Long and others, 2015).

It returns a dictionary of two maps, `out` and `aux`: the published weights hold the auxiliary head,
so random weights build it as well. Its input is larger than a classifier's.
"""

from __future__ import annotations

from model.loading.network import Network

NETWORKS = (
    Network(
        "fcn_resnet50",
        "fcn",
        "segmentation.fcn_resnet50",
        parameters=35_322_218,
        gflops=305.4,
        input_shape=(1, 3, 520, 520),
        weights="FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1",
        weights_file="fcn_resnet50_coco-1167a1af.pth",
        download_mib=135.009,
        # Without this torchvision would download the backbone's weights even for random ones.
        builder_arguments={"weights_backbone": None, "aux_loss": True, "num_classes": 21},
    ),
)
