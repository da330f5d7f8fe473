"""What limits each workload, and what was tried: printed for the rows that miss their target.

Instruction counts are of the vector instructions of the main loop in the code that is generated for AVX-512
(`TORSH_DUMP` shows it), for 16 elements. Two of them start in a cycle; a division of 16 floats keeps one of the two
ports for 16 cycles.
"""

from __future__ import annotations

_CALL = "what a call costs: see instructions.json, and the row dispatch"
_GELU_SMALL = (
    "26 instructions and a division (in the sigmoid) for 16 elements, at least 21 cycles, which is what arrays of "
    "256 KiB take; the rest is the call. torch.compile calls cost 7.6 us on the machine of this table, 23 to 50 "
    "where the target was set. A quotient by an approximate inverse and a correction, as divisors shared by many "
    "elements have, takes the ports as long as the division"
)
_GELU_LARGE = (
    "five arrays, each read or written once, from the third-level cache or DRAM: see the share of the limit. "
    "Stores past the cache were tried and lost wherever somebody reads the result"
)
_ROWS = (
    "rows come from the third-level cache or DRAM. Softmax takes 29 instructions for 16 elements in three "
    "passes, layer norm 20. The next row is fetched while the last pass over a row runs (1.1 to 1.2 times), and "
    "softmax multiplies by one inverse a row instead of dividing (1.2 times). Fetching the lines of the next "
    "result as well gave softmax another 1.05 and took 1.15 from layer norm"
)
_PRODUCT = (
    "a product on packed panels; the share is of the peak of multiply-adds in registers. Differences from MKL "
    "and OpenBLAS below 10 % change sign from run to run"
)
_STEP = "the products are most of the step: see the share; updates of parameters run at the bandwidth of memory"

WHY: dict[str, str] = {
    "dispatch": _CALL,
    "gelu-4K": _GELU_SMALL,
    "gelu-16K": _GELU_SMALL,
    "gelu-64K": _GELU_SMALL,
    "gelu-256K": _GELU_SMALL,
    "gelu-1M": _GELU_LARGE,
    "gelu-4M": _GELU_LARGE,
    "gelu-16M": _GELU_LARGE,
    "gelu-64M": _GELU_LARGE,
    "chain-64K": "60 instructions for 16 elements, each waiting for the one before; two vectors side by side hide that",
    "chain-1M": "60 instructions for 16 elements, and the bandwidth of the third-level cache",
    "chain-16M": "60 instructions for 16 elements, and the bandwidth of DRAM",
    "softmax-512": _ROWS,
    "softmax-4096": _ROWS,
    "layernorm-512": _ROWS,
    "layernorm-4096": _ROWS,
    "cross-entropy": "forward three passes (3, 22 and 30 instructions for 16 elements), the gradient written by "
    "the last",
    "column-sum": "16 MB are read once: see the share of the limit",
    "column-var": "16 MB are read twice, for the mean and for the squared differences; one pass would lose digits",
    "transpose-add": "lines of the transposed operand are 8 KiB apart, which the processor does not foresee. "
    "Tiles of 32 rows, whose lines are fetched in pairs, with row blocks outermost, gave 1.2 to 1.4 times over "
    "tiles of 16 rows, and 3.5 times where the rows are no power of two long",
    "matmul-128": _PRODUCT,
    "matmul-256": _PRODUCT,
    "matmul-512": _PRODUCT,
    "matmul-1024": _PRODUCT,
    "matmul-2048": _PRODUCT,
    "skinny-1x1024x1024": "4 MB of weights are read once, where they lie: see the share of the limit",
    "skinny-32x4096x1024": "16 MB of packed weights are read once for 32 rows: operations and bytes take about as long",
    "linear-gelu": _PRODUCT + ". Bias and gelu run on each panel of rows while it is in the cache",
    "attention": "products of 64 columns, and the exponentials between them; no score matrix is written",
    "attention-masked": "as attention; of causal masks half of the blocks are left out",
    "digits-step": _STEP,
    "mlp-784": _STEP,
    "mlp-1024": "10.7 Gflop in products, at the 170 Gflop/s that MKL reaches for 1024 cubed too, and 100 MB of "
    "parameters and gradients that the update moves: 63 and 8 ms on one thread",
    "gpt": _STEP,
    "conv": "products over windows, 9 terms long in the first layer",
}
