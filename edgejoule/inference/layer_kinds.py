"""What a layer does, and its window, in words common to all runtimes.

One table for each vocabulary: aten operators, ONNX operators, and the layer types that TensorRT's
inspector names. What is in no table is None; nothing is guessed. Standard library only.

A kernel, stride, dilation is one number per spatial axis. A padding is one per axis where both
sides are equal, else all begins and then all ends, as ONNX orders `pads`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from edgejoule.inference.backend import LayerKind

Ints = tuple[int, ...]

# How much of a fused layer an operation makes out; of those that weigh the same none is the main.
WEIGHT: Mapping[LayerKind, int] = {
    **dict.fromkeys(
        ("convolution", "deconvolution", "dense", "matrix_product", "attention", "recurrent"), 4
    ),
    **dict.fromkeys(("pooling", "normalisation", "softmax", "reduction", "embedding"), 3),
    **dict.fromkeys(("activation", "elementwise", "fused"), 2),
    "quantise": 1,
    **dict.fromkeys(("shape", "reformat", "nothing"), 0),
}


def _table(**kinds: str) -> Mapping[str, LayerKind]:
    return {name: kind for kind, names in kinds.items() for name in names.split()}  # type: ignore[misc]


# Names without namespace, overload and the in-place mark: `conv2d` for `aten.conv2d.default`.
ATEN = _table(
    convolution="conv1d conv2d conv3d convolution _convolution cudnn_convolution",
    deconvolution="conv_transpose1d conv_transpose2d conv_transpose3d",
    dense="linear addmm",
    matrix_product="mm bmm matmul baddbmm dot mv",
    attention="scaled_dot_product_attention _scaled_dot_product_flash_attention "
    "_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_flash_attention_for_cpu",
    pooling="max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d "
    "max_pool2d_with_indices max_pool3d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d",
    normalisation="batch_norm _native_batch_norm_legit_no_training native_batch_norm "
    "_native_batch_norm_legit cudnn_batch_norm layer_norm native_layer_norm group_norm "
    "native_group_norm instance_norm rms_norm _fused_rms_norm",
    activation="relu relu6 leaky_relu prelu _prelu_kernel elu selu celu gelu silu mish sigmoid "
    "hardsigmoid hardswish hardtanh tanh softplus softsign threshold log_sigmoid glu",
    softmax="softmax _softmax log_softmax _log_softmax",
    elementwise="add sub rsub mul div neg abs clamp clamp_min clamp_max maximum minimum pow sqrt "
    "rsqrt exp log log2 log1p expm1 sin cos erf reciprocal square sign floor ceil round trunc eq "
    "ne lt le gt ge where logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not "
    "masked_fill addcmul addcdiv lerp remainder fmod floor_divide atan atan2",
    reduction="mean sum amax amin max min prod argmax argmin any all var var_mean std "
    "logsumexp linalg_vector_norm norm",
    embedding="embedding embedding_bag",
    recurrent="lstm gru rnn_tanh rnn_relu",
    shape="view reshape _unsafe_view _reshape_copy flatten unflatten permute transpose t squeeze "
    "unsqueeze expand cat stack split split_with_sizes chunk narrow select slice index gather "
    "clone contiguous alias detach pad constant_pad_nd reflection_pad2d replication_pad2d to "
    "_to_copy type_as repeat roll flip movedim pixel_shuffle pixel_unshuffle upsample_nearest2d "
    "upsample_bilinear2d upsample_bicubic2d arange full full_like zeros zeros_like ones ones_like "
    "empty unbind tril triu meshgrid scatter index_select copy lift_fresh_copy",
    quantise="quantize_per_tensor dequantize_per_tensor quantize_per_channel "
    "dequantize_per_channel fake_quantize_per_tensor_affine fake_quantize_per_channel_affine "
    "quantize_op",
    nothing="dropout feature_dropout alpha_dropout native_dropout identity",
)

ONNX = _table(
    convolution="Conv FusedConv NhwcConv NhwcFusedConv QLinearConv ConvInteger DeformConv",
    deconvolution="ConvTranspose ConvTransposeWithDynamicPads",
    dense="Gemm FusedGemm QGemm",
    matrix_product="MatMul FusedMatMul QLinearMatMul MatMulInteger MatMulIntegerToFloat "
    "DynamicQuantizeMatMul MatMulNBits TransposeMatMul",
    attention="Attention MultiHeadAttention QAttention GroupQueryAttention",
    pooling="MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool GlobalLpPool "
    "QLinearAveragePool QLinearGlobalAveragePool NhwcMaxPool",
    normalisation="BatchNormalization LayerNormalization InstanceNormalization "
    "GroupNormalization SkipLayerNormalization SimplifiedLayerNormalization "
    "SkipSimplifiedLayerNormalization EmbedLayerNormalization LpNormalization LRN RMSNormalization",
    activation="Relu LeakyRelu PRelu Elu Selu Celu Gelu FastGelu BiasGelu QuickGelu Sigmoid "
    "HardSigmoid HardSwish Tanh Softplus Softsign ThresholdedRelu Mish Swish QLinearSigmoid "
    "QLinearLeakyRelu",
    softmax="Softmax LogSoftmax QLinearSoftmax",
    elementwise="Add Sub Mul Div Neg Abs Clip Max Min Pow Sqrt Exp Log Sin Cos Erf Reciprocal Sign "
    "Floor Ceil Round Equal Less LessOrEqual Greater GreaterOrEqual Where And Or Not Xor Mod "
    "QLinearAdd QLinearMul BiasAdd FusedSum Sum Mean Atan",
    reduction="ReduceMean ReduceSum ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 "
    "ReduceSumSquare ReduceLogSumExp ArgMax ArgMin QLinearReduceMean",
    embedding="EmbeddingBag",
    recurrent="LSTM GRU RNN DynamicQuantizeLSTM",
    shape="Reshape Flatten Squeeze Unsqueeze Transpose Concat QLinearConcat Split Slice Gather "
    "GatherElements GatherND ScatterND ScatterElements Expand Tile Pad Shape Size Cast CastLike "
    "Identity DepthToSpace SpaceToDepth Resize Upsample Range ConstantOfShape Constant Trilu "
    "OneHot Compress",
    reformat="ReorderInput ReorderOutput MemcpyToHost MemcpyFromHost",
    quantise="QuantizeLinear DequantizeLinear DynamicQuantizeLinear",
    nothing="Dropout",
)

# `LayerType` of the inspector's JSON: names that recordings and builder logs of 8.2 to 10.1 show,
# and kinds of INetworkDefinition's layers (NvInfer.h, enum LayerType) in the same spelling, which a
# plan may keep as they are. `Shuffle`, `Slice` and the like also stand for what TensorRT puts in by
# itself: the name of such a layer says so (`squeeze_after_...`).
TENSORRT = _table(
    convolution="CaskConvolution CaskGemmConvolution CudaDepthwiseConvolution CudnnConvolution "
    "CudaGroupConvolution CaskFlattenConvolution FusedConvActConvolution CublasConvolution "
    "Convolution ConvActPool CaskConvActPool",
    deconvolution="CaskDeconvolution CaskDeconvolutionV2 CudnnDeconvolution GemmDeconvolution "
    "CaskGemmDeconvolution Deconvolution",
    matrix_product="MatrixMultiply gemm CaskGemmMatrixMultiply",
    pooling="CaskPooling TiledPooling CudaPooling CudnnPooling Pooling",
    normalisation="Normalization LRN InstanceNormalization",
    activation="Activation ParametricReLU",
    softmax="SoftMax CudaSoftMax CaskSoftMax SoftMaxV2 RaggedSoftMax",
    elementwise="ElementWise PointWise PointWiseV1 PointWiseV2 Unary Scale Select",
    reduction="Reduce",
    recurrent="RNN RNNv2",
    shape="Shuffle Slice Padding Concat Concatenation Gather Scatter Cast Resize Identity Shape "
    "Split OneHot Fill NonZero Squeeze Unsqueeze Constant",
    reformat="Reformat",
    quantise="Quantize Dequantize",
    nothing="NoOp",
)  # fmt: skip


# Types of the layers of a network (NvInfer.h, enum LayerType) that one aten node is split into.
NETWORK = _table(
    convolution="CONVOLUTION",
    deconvolution="DECONVOLUTION",
    matrix_product="MATRIX_MULTIPLY",
    attention="ATTENTION ATTENTION_INPUT ATTENTION_OUTPUT",
    pooling="POOLING",
    normalisation="NORMALIZATION",
    activation="ACTIVATION",
    softmax="SOFTMAX",
    elementwise="ELEMENTWISE UNARY SELECT",
    reduction="REDUCE",
    shape="SHUFFLE SLICE CONCATENATION GATHER CAST IDENTITY CONSTANT SHAPE FILL PADDING",
    quantise="QUANTIZE DEQUANTIZE",
)


def kind_of_aten(target: str) -> LayerKind | None:
    """Kind of `aten.conv2d.default`, or of the same with another namespace."""
    parts = target.split(".")
    name = parts[1] if len(parts) > 1 else parts[0]
    return ATEN.get(name) or ATEN.get(name.rstrip("_"))


def kind_of_onnx(op_type: str) -> LayerKind | None:
    """Kind of an ONNX operator, or of one that ONNX Runtime put in its place."""
    return ONNX.get(op_type)


def kind_of_tensorrt(layer_type: str | None) -> LayerKind | None:
    """Kind of a layer by the inspector's `LayerType` alone."""
    return TENSORRT.get(layer_type) if layer_type else None


def kind_of_type(name: str) -> LayerKind | None:
    """Kind of a node by its type, aten (with dots) or ONNX (without)."""
    return kind_of_aten(name) if "." in name else kind_of_onnx(name)


def with_weights(kind: LayerKind | None, weighted: bool | None) -> LayerKind | None:
    """Tell a dense layer from a product of two activations; None: it is not known."""
    if weighted is None or kind not in ("dense", "matrix_product"):
        return kind
    return "dense" if weighted else "matrix_product"


def main_index(kinds: Sequence[LayerKind | None]) -> int | None:
    """Which of several fused operations is the main one; None where none is known."""
    known = [(-WEIGHT[kind], index) for index, kind in enumerate(kinds) if kind is not None]
    return min(known)[1] if known else None


def combine(kinds: Iterable[LayerKind | None]) -> LayerKind | None:
    """Kind of a layer made of these: the heaviest's, `fused` where several different weigh most.

    An operation of no known kind may be the heaviest: then only a kind of the highest weight
    stands.
    """
    every = list(kinds)
    known = [kind for kind in every if kind is not None]
    top = max((WEIGHT[kind] for kind in known), default=-1)
    if len(known) < len(every) and top < max(WEIGHT.values()):
        return None
    heaviest = {kind for kind in known if WEIGHT[kind] == top}
    if len(heaviest) > 1:
        return "fused"
    return heaviest.pop() if heaviest else None


@dataclass(frozen=True)
class Window:
    """The window of a convolution or pooling; None where it is not known or there is none."""

    kernel: Ints | None = None
    stride: Ints | None = None
    padding: Ints | None = None
    dilation: Ints | None = None
    groups: int | None = None


def ints(value: Any) -> Ints | None:
    """Return a list of integers as a tuple; None for anything else."""
    if not isinstance(value, (list, tuple)) or not value:
        return None
    if not all(isinstance(one, int) and not isinstance(one, bool) for one in value):
        return None
    return tuple(value)


def per_axis(value: Any, axes: int) -> Ints | None:
    """Return one number per axis: `2` and `[2]` stand for all axes, as torch has it."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,) * axes
    found = ints(value)
    if found is None or len(found) not in (1, axes):
        return None
    return found * axes if len(found) == 1 else found


def canonical_padding(begins: Ints | None, ends: Ints | None) -> Ints | None:
    """One number per axis where both sides are equal, else all begins, then all ends."""
    if begins is None or ends is None or len(begins) != len(ends):
        return None
    return begins if begins == ends else begins + ends


def aten_window(target: str, arguments: Mapping[str, Any], weight: Ints | None) -> Window:
    """Window of an aten call.

    Args:
        target: `aten.conv2d.default`.
        arguments: Arguments by name; those left out have the schema's default.
        weight: Shape of the weight, (out, in per group, kernel...), for convolutions.
    """
    kind = kind_of_aten(target)
    if kind in ("convolution", "deconvolution"):
        if weight is None or len(weight) < 3:
            return Window()
        kernel = weight[2:]
        axes = len(kernel)
        dilation = per_axis(arguments.get("dilation", 1), axes)
        padding = arguments.get("padding", 0)
        same = _torch_same(padding, kernel, dilation)
        groups = arguments.get("groups", 1)
        return Window(
            kernel,
            per_axis(arguments.get("stride", 1), axes),
            same if isinstance(padding, str) else per_axis(padding, axes),
            dilation,
            groups if isinstance(groups, int) else None,
        )
    name = target.split(".")[1] if "." in target else target
    if kind != "pooling" or "adaptive" in name or "kernel_size" not in arguments:
        return Window()
    axes = next((n for n in (1, 2, 3) if f"pool{n}d" in name), 0)
    pooled = per_axis(arguments["kernel_size"], axes)
    stride = arguments.get("stride") or arguments["kernel_size"]
    return Window(
        pooled,
        per_axis(stride, axes),
        per_axis(arguments.get("padding", 0), axes),
        per_axis(arguments.get("dilation", 1), axes),
    )


def _torch_same(padding: Any, kernel: Ints, dilation: Ints | None) -> Ints | None:
    """Padding of `padding="same"`: the odd one goes to the end (torch's Convolution.cpp)."""
    if padding == "valid":
        return (0,) * len(kernel)
    if padding != "same" or dilation is None:
        return None
    total = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    begins = tuple(one // 2 for one in total)
    return canonical_padding(
        begins, tuple(one - half for one, half in zip(total, begins, strict=True))
    )


def onnx_window(
    op_type: str,
    attributes: Mapping[str, Any],
    data: Ints | None,
    weight: Ints | None,
    output: Ints | None,
) -> Window:
    """Window of an ONNX node (Operators.md: Conv, ConvTranspose, MaxPool, AveragePool).

    Args:
        op_type: Its type.
        attributes: Its attributes; those left out have the operator's default.
        data: Shape of its input, channels second but for `Nhwc...`, where they are last.
        weight: Shape of its weight, for convolutions.
        output: Shape of its output.
    """
    kind = kind_of_onnx(op_type)
    nhwc = op_type.startswith("Nhwc") or attributes.get("channels_last") == 1
    inside = _spatial(data, nhwc)
    if "Global" in op_type:
        return Window(kernel=inside)
    kernel = ints(attributes.get("kernel_shape"))
    if kernel is None and kind in ("convolution", "deconvolution") and weight is not None:
        kernel = weight[2:] or None
    if kind not in ("convolution", "deconvolution", "pooling") or kernel is None:
        return Window()
    ones = (1,) * len(kernel)
    stride = ints(attributes.get("strides", ones))
    dilation = ints(attributes.get("dilations", ones))
    auto = attributes.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        padding = None
        if kind != "deconvolution" and stride is not None and dilation is not None:
            padding = _onnx_same(auto, inside, kernel, stride, dilation)
        elif stride is not None and dilation is not None:
            outside = _spatial(output, nhwc)
            padding = _onnx_same_back(auto, inside, outside, kernel, stride, dilation, attributes)
    elif auto == "VALID":
        padding = (0,) * len(kernel)
    elif "output_shape" in attributes:
        padding = None  # the operator computes it from the shape that is asked for
    else:
        pads = ints(attributes.get("pads", (0,) * 2 * len(kernel)))
        half = len(kernel)
        padding = canonical_padding(pads[:half], pads[half:]) if pads else None
    groups = attributes.get("group", 1) if kind != "pooling" else None
    return Window(kernel, stride, padding, dilation, groups)


def _spatial(shape: Ints | None, nhwc: bool) -> Ints | None:
    if shape is None or len(shape) < 3:
        return None
    return shape[1:-1] if nhwc else shape[2:]


def _onnx_same(
    auto: str, data: Ints | None, kernel: Ints, stride: Ints, dilation: Ints
) -> Ints | None:
    if data is None or not len(data) == len(kernel) == len(stride) == len(dilation):
        return None
    total = [
        max((ceil(size / step) - 1) * step + wide * (window - 1) + 1 - size, 0)
        for size, window, step, wide in zip(data, kernel, stride, dilation, strict=True)
    ]
    return _sides(auto, total)


def _onnx_same_back(
    auto: str,
    data: Ints | None,
    output: Ints | None,
    kernel: Ints,
    stride: Ints,
    dilation: Ints,
    attributes: Mapping[str, Any],
) -> Ints | None:
    extra = ints(attributes.get("output_padding", (0,) * len(kernel)))
    if data is None or output is None or extra is None:
        return None
    if len({len(data), len(output), len(kernel), len(stride), len(dilation), len(extra)}) > 1:
        return None
    columns = zip(data, output, kernel, stride, dilation, extra, strict=True)
    total = [
        step * (size - 1) + more + wide * (window - 1) + 1 - out
        for size, out, window, step, wide, more in columns
    ]
    return _sides(auto, total) if min(total) >= 0 else None


def _sides(auto: str, total: Sequence[int]) -> Ints | None:
    small = tuple(one // 2 for one in total)
    large = tuple(one - half for one, half in zip(total, small, strict=True))
    return canonical_padding(*((small, large) if auto == "SAME_UPPER" else (large, small)))
