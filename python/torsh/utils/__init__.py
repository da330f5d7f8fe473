"""Helpers around training: `torsh.utils.data`."""

from __future__ import annotations

from torsh.utils import data

__all__ = ["data"]
