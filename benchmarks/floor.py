"""What the matrix products alone would take: the time below which no arrangement of them gets.

Two floors, both in processor seconds per review:

* ``own``: every product at the best rate that this machine reaches for a product of just that
  shape, thin and batched ones included. What is above it is everything but products: norms,
  softmax, activations, copies, optimiser, Python.
* ``peak``: every product at the best rate of any of these shapes. Thin products and attention
  never run at it, so this floor cannot be reached; it shows how far the shapes themselves are
  from what the processor can do.

Counted is the least that exact training needs: frozen layers forward and the gradient of their
input (not below the first adapter), attention with two products forward and four backward, the
adapters, and the last layer for the first token of each review only, keys and values absorbed.
The head is left out; it is a thousandth.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from textlora import encoder

MEASURING_SECONDS = 0.15
TEXT_STEP = 32


@dataclass(frozen=True)
class Shape:
    """An encoder's widths, and what a micro-batch holds.

    Attributes:
        hidden: H.
        wide: width between the two layers of a block's second half.
        layers: number of blocks.
        heads: attention heads.
        texts: reviews of a micro-batch.
        length: mean tokens of a review.
        mean_square: mean of the squared lengths; attention grows with it.
    """

    hidden: int
    wide: int
    layers: int
    heads: int
    texts: int
    length: int
    mean_square: float

    @classmethod
    def of(cls, config: Any, lengths: Any, tokens: int) -> Shape:
        """Return the shape of a DistilBERT configuration, for micro-batches of so many tokens."""
        length = round(float(lengths.mean()))
        widths = (config.dim, config.hidden_dim, config.n_layers, config.n_heads)
        return cls(*widths, max(1, round(tokens / length)), length, float((lengths.astype(float) ** 2).mean()))

    @property
    def rows(self) -> int:
        """Tokens of a micro-batch."""
        return self.texts * self.length


@dataclass(frozen=True)
class Product:
    """``count`` products (batch, m, k) by (batch, k, n) in a micro-batch.

    Attributes:
        part: what it belongs to.
        transposed: whether the second factor lies as (n, k), like a layer's weight going forward.
    """

    part: str
    m: int
    k: int
    n: int
    batch: int = 1
    count: float = 1
    transposed: bool = False

    @property
    def flops(self) -> float:
        """Multiplications and additions of one."""
        return 2.0 * self.batch * self.m * self.k * self.n

    @property
    def key(self) -> tuple[int, int, int, int, bool]:
        """What its rate depends on."""
        return self.batch, self.m, self.k, self.n, self.transposed


@dataclass(frozen=True)
class Floor:
    """Processor seconds per review, and where they come from."""

    own: float
    peak: float
    best_gflops: float
    flops: float
    parts: dict[str, float]

    def described(self) -> dict[str, Any]:
        """Return it for a result file; the rate is that of all cores together per processor second."""
        return {
            "own_ms": round(1000 * self.own, 3),
            "peak_ms": round(1000 * self.peak, 3),
            "gflop_per_review": round(self.flops / 1e9, 3),
            "best_gflops_per_core": round(self.best_gflops, 1),
            "parts_ms": {name: round(1000 * seconds, 3) for name, seconds in self.parts.items()},
            "explained": " ".join((__doc__ or "").split()),
        }


def training_products(shape: Shape, rank: int, adapted: Sequence[str]) -> list[Product]:
    """Return the products of forward and backward over a micro-batch.

    Args:
        shape: of encoder and micro-batch.
        rank: r of the adapters.
        adapted: names of the adapted linear layers, as in DistilBERT.
    """
    products = list(_last_block(shape, training=True))
    products += _thin(shape, shape.texts, rank, adapted, first=False)
    for number in range(shape.layers - 1):
        products += _block(shape, training=True, first=number == 0)
        products += _thin(shape, shape.rows, rank, adapted, first=number == 0)
    return products


def prediction_products(shape: Shape) -> list[Product]:
    """Return the products of a forward pass over a micro-batch, adapters merged."""
    blocks = [product for _ in range(shape.layers - 1) for product in _block(shape, training=False, first=False)]
    return [*blocks, *_last_block(shape, training=False)]


def _linear(part: str, rows: int, size: tuple[int, int], *, back: bool) -> Iterator[Product]:
    inputs, outputs = size
    yield Product(part, rows, inputs, outputs, transposed=True)
    if back:
        yield Product(part, rows, outputs, inputs)


def _block(shape: Shape, *, training: bool, first: bool) -> Iterator[Product]:
    hidden, wide, rows = shape.hidden, shape.wide, shape.rows
    # Nothing below the first block learns: its input needs no gradient.
    yield from _linear("frozen linear layers", rows, (hidden, 3 * hidden), back=training and not first)
    for size in ((hidden, hidden), (hidden, wide), (wide, hidden)):
        yield from _linear("frozen linear layers", rows, size, back=training)
    length = -(-shape.length // TEXT_STEP) * TEXT_STEP
    batch, width = shape.texts * shape.heads, hidden // shape.heads
    # The rate is that of whole vectors; the work is that of the true lengths.
    share = shape.mean_square / length**2
    yield Product("attention", length, width, length, batch, share * (2 if training else 1), transposed=True)
    yield Product("attention", length, length, width, batch, share * (4 if training else 1))


def _last_block(shape: Shape, *, training: bool) -> Iterator[Product]:
    hidden, wide, texts = shape.hidden, shape.wide, shape.texts
    passes, width = 2 if training else 1, hidden // shape.heads
    for size in ((hidden, hidden), (hidden, hidden), (hidden, wide), (wide, hidden)):
        yield from _linear("last layer", texts, size, back=training)
    # Queries onto keys' weights and means through values' weights; backward the other way round.
    yield Product("last layer", texts, width, hidden, shape.heads, passes)
    yield Product("last layer", texts, hidden, width, shape.heads, passes, transposed=True)
    yield Product("last layer", shape.heads, hidden, shape.length, texts, passes, transposed=True)
    yield Product("last layer", shape.heads, shape.length, hidden, texts, passes)
    if training:
        yield Product("last layer", shape.length, 2 * shape.heads, hidden, texts)


def _thin(shape: Shape, rows: int, rank: int, adapted: Sequence[str], *, first: bool) -> Iterator[Product]:
    sizes = {"lin1": (shape.hidden, shape.wide), "lin2": (shape.wide, shape.hidden)}
    for name in adapted:
        inputs, outputs = sizes.get(name, (shape.hidden, shape.hidden))
        yield Product("adapters", rows, inputs, rank, transposed=True)
        yield Product("adapters", rows, rank, outputs, transposed=True)
        yield Product("adapters", rows, outputs, rank)
        yield Product("adapters", rank, rows, outputs)
        yield Product("adapters", rank, rows, inputs)
        if not (first and name in ("q_lin", "k_lin", "v_lin")):
            yield Product("adapters", rows, rank, inputs)


def measure(products: Sequence[Product], texts: int, precision: str) -> Floor:
    """Time every shape that occurs and add up.

    Args:
        products: of a micro-batch.
        texts: reviews of a micro-batch.
        precision: of the products.
    """
    with torch.inference_mode(), encoder.arithmetic(precision):
        seconds = {product.key: _seconds(product, encoder.DTYPES[precision]) for product in products}
    best = max(product.flops / seconds[product.key] for product in products)
    parts = dict.fromkeys((product.part for product in products), 0.0)
    for product in products:
        parts[product.part] += product.count * seconds[product.key] / texts
    flops = sum(product.count * product.flops for product in products) / texts
    return Floor(sum(parts.values()), flops / best, best / 1e9, flops, parts)


def _seconds(product: Product, dtype: torch.dtype) -> float:
    """Return the least processor time of the product, all threads together."""
    left = torch.rand(product.batch, product.m, product.k).to(dtype)
    right = torch.rand(product.batch, product.n, product.k).to(dtype).transpose(1, 2)
    if not product.transposed:
        right = right.contiguous()
    if product.batch == 1:
        left, right = left[0], right[0]
    out = left @ right
    calls = max(1, round(0.01 / max(1e-6, _timed(lambda: torch.matmul(left, right, out=out), 2))))
    best, end = math.inf, time.perf_counter() + MEASURING_SECONDS
    while best == math.inf or time.perf_counter() < end:
        best = min(best, _timed(lambda: torch.matmul(left, right, out=out), calls))
    return best


def _timed(work: Callable[[], Any], calls: int) -> float:
    start = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - start) / calls
