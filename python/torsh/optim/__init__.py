"""Optimizers, as in `torch.optim`."""

from torsh.optim import lr_scheduler
from torsh.optim.adagrad import Adagrad
from torsh.optim.adam import Adam, AdamW
from torsh.optim.optimizer import Optimizer
from torsh.optim.rmsprop import RMSprop
from torsh.optim.sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Optimizer", "RMSprop", "lr_scheduler"]
