"""Neural network modules, after `torch.nn`: names, arguments, parameter layouts and `state_dict` keys agree."""

# isort: off
# (it would give each name a line of its own)
from dlc.nn import functional, init
from dlc.nn.activation import (
    CELU, ELU, GELU, GLU, SELU, Hardsigmoid, Hardswish, Hardtanh, LeakyReLU, LogSigmoid, LogSoftmax, Mish, PReLU, ReLU,
    ReLU6, Sigmoid, SiLU, Softmax, Softplus, Softsign, Tanh,
)  # fmt: skip
from dlc.nn.attention import MultiheadAttention, TransformerEncoderLayer
from dlc.nn.container import Flatten, ModuleDict, ModuleList, ParameterList, Residual, Sequential, Unflatten
from dlc.nn.conv import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from dlc.nn.dropout import Dropout, Dropout1d, Dropout2d
from dlc.nn.embedding import Embedding
from dlc.nn.linear import Identity, Linear
from dlc.nn.loss import (
    BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, KLDivLoss, L1Loss, MSELoss, NLLLoss, SmoothL1Loss,
)  # fmt: skip
from dlc.nn.module import Module
from dlc.nn.norm import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm
from dlc.nn.module import Parameter
from dlc.nn.pooling import (
    AdaptiveAvgPool1d, AdaptiveAvgPool2d, AvgPool1d, AvgPool2d, MaxPool1d, MaxPool2d, Upsample,
)  # fmt: skip
from dlc.nn.recurrent import GRU, LSTM, RNN
from dlc.nn.utils import clip_grad_norm_, clip_grad_value_
# isort: on

__all__ = [
    "CELU", "ELU", "GELU", "GLU", "GRU", "LSTM", "RNN", "SELU", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d", "AvgPool1d",
    "AvgPool2d", "BCELoss", "BCEWithLogitsLoss", "BatchNorm1d", "BatchNorm2d", "Conv1d", "Conv2d", "ConvTranspose1d",
    "ConvTranspose2d", "CrossEntropyLoss", "Dropout", "Dropout1d", "Dropout2d", "Embedding", "Flatten", "GroupNorm",
    "Hardsigmoid", "Hardswish", "Hardtanh", "HuberLoss", "Identity", "KLDivLoss", "L1Loss", "LayerNorm", "LeakyReLU",
    "Linear", "LogSigmoid", "LogSoftmax", "MSELoss", "MaxPool1d", "MaxPool2d", "Mish", "Module", "ModuleDict",
    "ModuleList", "MultiheadAttention", "NLLLoss", "PReLU", "Parameter", "ParameterList", "RMSNorm", "ReLU", "ReLU6",
    "Residual", "Sequential", "SiLU", "Sigmoid", "SmoothL1Loss", "Softmax", "Softplus", "Softsign", "Tanh",
    "TransformerEncoderLayer", "Unflatten", "Upsample", "clip_grad_norm_", "clip_grad_value_", "functional", "init",
]  # fmt: skip
