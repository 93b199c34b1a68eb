"""The functions behind the layers, under PyTorch's names: `import dlc.nn.functional as F`."""

# isort: off
# (it would give each name a line of its own)
from dlc import one_hot
from dlc.nn.functional.activation import (
    celu, elu, gelu, glu, hardsigmoid, hardswish, hardtanh, leaky_relu, log_softmax, logsigmoid, mish, normalize, prelu,
    relu, relu6, selu, sigmoid, silu, softmax, softmin, softplus, softsign, tanh, tanhshrink, threshold,
)  # fmt: skip
from dlc.nn.functional.attention import causal_mask, scaled_dot_product_attention
from dlc.nn.functional.convolution import conv1d, conv2d, conv_transpose1d, conv_transpose2d
from dlc.nn.functional.dropout import dropout, dropout1d, dropout2d
from dlc.nn.functional.interpolation import interpolate
from dlc.nn.functional.linear import bilinear, embedding, linear
from dlc.nn.functional.loss import (
    binary_cross_entropy, binary_cross_entropy_with_logits, cross_entropy, huber_loss, kl_div, l1_loss, mse_loss,
    nll_loss, smooth_l1_loss,
)  # fmt: skip
from dlc.nn.functional.normalization import batch_norm, group_norm, instance_norm, layer_norm, rms_norm
from dlc.nn.functional.pooling import (
    adaptive_avg_pool1d, adaptive_avg_pool2d, avg_pool1d, avg_pool2d, max_pool1d, max_pool2d,
)  # fmt: skip
from dlc.nn.functional.window import pad
# isort: on

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool2d", "batch_norm", "bilinear",
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "causal_mask", "celu", "conv1d", "conv2d",
    "conv_transpose1d", "conv_transpose2d", "cross_entropy", "dropout", "dropout1d", "dropout2d", "elu", "embedding",
    "gelu", "glu", "group_norm", "hardsigmoid", "hardswish", "hardtanh", "huber_loss", "instance_norm", "interpolate",
    "kl_div", "l1_loss", "layer_norm", "leaky_relu", "linear", "log_softmax", "logsigmoid", "max_pool1d", "max_pool2d",
    "mish", "mse_loss", "nll_loss", "normalize", "one_hot", "pad", "prelu", "relu", "relu6", "rms_norm",
    "scaled_dot_product_attention", "selu", "sigmoid", "silu", "smooth_l1_loss", "softmax", "softmin", "softplus",
    "softsign", "tanh", "tanhshrink", "threshold",
]  # fmt: skip
