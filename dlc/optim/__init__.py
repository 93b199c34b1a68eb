"""Optimizers and learning rate schedules, after `torch.optim`."""

from dlc.nn.utils import clip_grad_norm_, clip_grad_value_
from dlc.optim import lr_scheduler
from dlc.optim.adam import Adam, AdamW
from dlc.optim.optimizer import Optimizer, ParamGroup
from dlc.optim.rmsprop import RMSprop
from dlc.optim.sgd import SGD

__all__ = [
    "SGD", "Adam", "AdamW", "Optimizer", "ParamGroup", "RMSprop", "clip_grad_norm_", "clip_grad_value_", "lr_scheduler",
]  # fmt: skip
