"""Helpers around training and exchange: `torsh.utils.data`, `torsh.utils.dlpack`."""

from __future__ import annotations

from torsh.utils import data, dlpack

__all__ = ["data", "dlpack"]
