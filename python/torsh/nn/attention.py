"""Multi-head attention and the Transformer encoder."""

from __future__ import annotations

import math

from torsh import _C
from torsh._fn import creation
from torsh._fn._args import int_arg, number_arg, tensor_arg
from torsh.nn import functional as F
from torsh.nn import init
from torsh.nn.container import ModuleList
from torsh.nn.layers import Dropout, LayerNorm, Linear
from torsh.nn.module import Module, Parameter


def _added(mask, name: str, dtype):
    """A mask of `MultiheadAttention` (bool: true hides) as numbers to add to the scores."""
    mask = tensor_arg(mask, "MultiheadAttention", name)
    if mask.dtype == _C.bool:
        return _C.where(mask, float("-inf"), creation.zeros(list(mask.shape), dtype=dtype, device=mask.device))
    if not mask.dtype.is_floating_point:
        raise AssertionError(f"only bool and floating types of {name} are supported")
    return mask


class MultiheadAttention(Module):
    """Attention of several heads (Vaswani et al., 2017), with PyTorch's parameters and state.

    forward(query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, average_attn_weights=True,
    is_causal=False) gives (output, weights). Shapes: query [L, N, E], key [S, N, kdim], value [S, N, vdim], batch
    first with `batch_first`, or without N. In bool masks true means hidden; key_padding_mask is [N, S], attn_mask
    [L, S] or [N * num_heads, L, S]. Without `need_weights` the scores are never in memory as a whole.
    `add_bias_kv` and `add_zero_attn` are not supported.

    >>> x = torsh.ones(2, 5, 8)
    >>> y, w = torsh.nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)
    >>> (tuple(y.shape), tuple(w.shape))
    ((2, 5, 8), (2, 5, 5))
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, add_bias_kv: bool = False,
        add_zero_attn: bool = False, kdim=None, vdim=None, batch_first: bool = False, device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        embed_dim = int_arg(embed_dim, "MultiheadAttention", "embed_dim")
        num_heads = int_arg(num_heads, "MultiheadAttention", "num_heads")
        if embed_dim <= 0 or num_heads <= 0:
            raise ValueError(
                f"embed_dim and num_heads must be greater than 0, got embed_dim={embed_dim} and "
                f"num_heads={num_heads} instead"
            )
        if add_bias_kv or add_zero_attn:
            raise NotImplementedError("MultiheadAttention(): add_bias_kv and add_zero_attn are not supported")
        self.embed_dim, self.num_heads, self.batch_first = embed_dim, num_heads, bool(batch_first)
        self.kdim = embed_dim if kdim is None else int_arg(kdim, "MultiheadAttention", "kdim")
        self.vdim = embed_dim if vdim is None else int_arg(vdim, "MultiheadAttention", "vdim")
        self.dropout = float(number_arg(dropout, "MultiheadAttention", "dropout"))
        self.head_dim = embed_dim // num_heads
        if self.head_dim * num_heads != embed_dim:
            raise AssertionError("embed_dim must be divisible by num_heads")
        self._qkv_same_embed_dim = self.kdim == embed_dim and self.vdim == embed_dim

        def table(rows, cols):
            return Parameter(creation.empty(rows, cols, device=device, dtype=dtype))

        if self._qkv_same_embed_dim:
            self.in_proj_weight = table(3 * embed_dim, embed_dim)
            for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
                self.register_parameter(name, None)
        else:
            self.q_proj_weight = table(embed_dim, embed_dim)
            self.k_proj_weight = table(embed_dim, self.kdim)
            self.v_proj_weight = table(embed_dim, self.vdim)
            self.register_parameter("in_proj_weight", None)
        if bias:
            self.in_proj_bias = Parameter(creation.empty(3 * embed_dim, device=device, dtype=dtype))
        else:
            self.register_parameter("in_proj_bias", None)
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias, device=device, dtype=dtype)
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def _project(self, query, key, value):
        e, bias = self.embed_dim, self.in_proj_bias
        biases = (None, None, None) if bias is None else bias.split(e)
        if self._qkv_same_embed_dim:
            if query is key and key is value:
                # One product for all three.
                return F.linear(query, self.in_proj_weight, bias).split(e, dim=-1)
            weights = self.in_proj_weight.split(e)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=False)]

    def _check(self, query, key, value) -> None:
        if query.ndim not in (2, 3):
            raise AssertionError(
                f"query should be unbatched 2D or batched 3D tensor but received {query.ndim}-D query tensor"
            )
        if key.ndim != query.ndim or value.ndim != query.ndim:
            raise AssertionError(
                f"For {'batched (3-D)' if query.ndim == 3 else 'unbatched (2-D)'} `query`, expected `key` and `value` "
                f"to be {query.ndim}-D but found {key.ndim}-D and {value.ndim}-D tensors respectively"
            )
        sizes = (("embedding", query, self.embed_dim), ("key", key, self.kdim), ("value", value, self.vdim))
        for name, x, size in sizes:
            if x.shape[-1] != size:
                raise AssertionError(f"was expecting {name} dimension of {size}, but got {x.shape[-1]}")

    def forward(
        self, query, key, value, key_padding_mask=None, need_weights: bool = True, attn_mask=None,
        average_attn_weights: bool = True, is_causal: bool = False,
    ):  # fmt: skip
        query_given = query
        same = query is key and key is value
        query = tensor_arg(query, "MultiheadAttention", "query")
        key = query if key is query_given else tensor_arg(key, "MultiheadAttention", "key")
        value = query if same else tensor_arg(value, "MultiheadAttention", "value")
        self._check(query, key, value)
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batched = query.ndim == 3
        q, k, v = self._project(query, key, value)
        # [N, heads, rows, head_dim] whatever the layout was.
        if not batched:
            q, k, v = (x.unsqueeze(0) for x in (q, k, v))
        elif not self.batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        n, rows, keys = q.shape[0], q.shape[1], k.shape[1]
        if k.shape[0] != n or v.shape[0] != n or v.shape[1] != keys:
            raise AssertionError(
                f"key's sequence and batch dims {tuple(key.shape[:-1])} do not match value's "
                f"{tuple(value.shape[:-1])} or the query's batch"
            )
        h = self.num_heads
        q, k, v = (x.reshape(n, x.shape[1], h, self.head_dim).transpose(1, 2) for x in (q, k, v))
        mask = self._mask(n, rows, keys, attn_mask, key_padding_mask, q.dtype)
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * (1.0 / math.sqrt(self.head_dim))) @ k.transpose(-2, -1)
            weights = F.dropout(F.softmax(scores if mask is None else scores + mask, dim=-1), p, p > 0.0)
            out = weights @ v
        elif is_causal and key_padding_mask is None:
            # The caller says that the mask is causal, as in PyTorch.
            out = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, p)
        out = self.out_proj(out.transpose(1, 2).reshape(n, rows, self.embed_dim))
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        if weights is not None:
            weights = weights.mean(dim=1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        return out, weights

    def _mask(self, n: int, rows: int, keys: int, attn_mask, key_padding_mask, dtype):
        """Both masks as one to be added, broadcastable to [N, heads, L, S]; None without any."""
        mask = None
        if attn_mask is not None:
            mask = _added(attn_mask, "attn_mask", dtype)
            if mask.ndim == 2:
                want = (rows, keys)
            elif mask.ndim == 3:
                want = (n * self.num_heads, rows, keys)
            else:
                raise RuntimeError(f"attn_mask's dimension {mask.ndim} is not supported")
            if tuple(mask.shape) != want:
                raise RuntimeError(
                    f"The shape of the {mask.ndim}D attn_mask is {tuple(mask.shape)}, but should be {want}."
                )
            if mask.ndim == 3:
                mask = mask.reshape(n, self.num_heads, rows, keys)
        if key_padding_mask is not None:
            pad = _added(key_padding_mask, "key_padding_mask", dtype)
            pad = pad.unsqueeze(0) if pad.ndim == 1 else pad
            if tuple(pad.shape) != (n, keys):
                raise AssertionError(f"expecting key_padding_mask shape of {(n, keys)}, but got {tuple(pad.shape)}")
            pad = pad.reshape(n, 1, 1, keys)
            mask = pad if mask is None else mask + pad
        return mask


class TransformerEncoderLayer(Module):
    """Self-attention and two linear layers, each with a residual and a layer norm (Vaswani et al., 2017).

    >>> torsh.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)(torsh.ones(2, 5, 8)).shape
    torsh.Size([2, 5, 8])
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1, activation="relu",
        layer_norm_eps: float = 1e-5, batch_first: bool = False, norm_first: bool = False, bias: bool = True,
        device=None, dtype=None,
    ):  # fmt: skip
        super().__init__()
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias=bias, batch_first=batch_first, device=device, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias, device=device, dtype=dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias, device=device, dtype=dtype)
        self.norm1 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.norm2 = LayerNorm(d_model, eps=layer_norm_eps, bias=bias, device=device, dtype=dtype)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)
        self.norm_first = bool(norm_first)
        if isinstance(activation, str):
            if activation not in ("relu", "gelu"):
                raise RuntimeError(f"activation should be relu/gelu, not {activation}")
            activation = getattr(F, activation)
        self.activation = activation

    def _attend(self, x, mask, padding, is_causal: bool):
        y = self.self_attn(x, x, x, padding, False, mask, True, is_causal)[0]
        return self.dropout1(y)

    def _feed(self, x):
        return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

    def forward(self, src, src_mask=None, src_key_padding_mask=None, is_causal: bool = False):
        x, rest = src, (src_mask, src_key_padding_mask, is_causal)
        if self.norm_first:
            x = x + self._attend(self.norm1(x), *rest)
            return x + self._feed(self.norm2(x))
        x = self.norm1(x + self._attend(x, *rest))
        return self.norm2(x + self._feed(x))


class TransformerEncoder(Module):
    """`num_layers` copies of an encoder layer, and a norm after them if given.

    >>> layer = torsh.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> torsh.nn.TransformerEncoder(layer, 2)(torsh.ones(2, 5, 8)).shape
    torsh.Size([2, 5, 8])
    """

    def __init__(
        self, encoder_layer, num_layers: int, norm=None, enable_nested_tensor: bool = True, mask_check: bool = True
    ):
        super().__init__()
        import copy

        self.layers = ModuleList([copy.deepcopy(encoder_layer) for _ in range(num_layers)])
        self.num_layers, self.norm = num_layers, norm

    def forward(self, src, mask=None, src_key_padding_mask=None, is_causal=None):
        for layer in self.layers:
            src = layer(src, mask, src_key_padding_mask, bool(is_causal))
        return src if self.norm is None else self.norm(src)
