"""The functions of `torsh`, grouped by topic. `torsh/__init__.py` re-exports them and `_tensor.py` turns
most of them into methods."""
