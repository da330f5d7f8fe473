"""Optimizers, as in `torch.optim`."""

from torsh.optim import lr_scheduler
from torsh.optim.adam import Adam, AdamW
from torsh.optim.optimizer import Optimizer
from torsh.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "lr_scheduler"]
