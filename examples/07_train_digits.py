"""Train a residual network on handwritten digits; forward, backward and the optimiser are opc's kernels.

    python examples/07_train_digits.py                 # f32, under a minute
    python examples/07_train_digits.py --dtype bf16    # products in bfloat16, weights and statistics in f32

pip install -e '.[examples]' brings scikit-learn, which contains the digits, rich and matplotlib. The loss curve is
drawn into build/digits-DTYPE.png.
"""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import kernels_dsl
import opc

SOURCE = """
kernel head(x: T[N, C, H, W], w: T[K, C], bias: T[K], labels: i32[N]) -> (loss: f32[1]) {
  pooled = global_avg_pool(x)
  scores = linear(pooled, w, bias)
  loss = softmax_cross_entropy(scores, labels)
}
kernel predict(x: T[N, C, H, W], w: T[K, C], bias: T[K]) -> (label: i32[N]) {
  pooled = global_avg_pool(x)
  scores = linear(pooled, w, bias)
  label[n] = argmax[k](scores[n, k])
}
"""
MIXED = {"f32": "", "bf16": "bf16"}  # the type of products; all else is f32
BATCH, CHANNELS, CLASSES, RATE = 32, 16, 10, 0.2
Array = np.ndarray[Any, np.dtype[Any]]  # images are [N, C, H, W] by index, channels last in memory


class Parameter:
    """What is learned, and its momentum."""

    def __init__(self, value: Array) -> None:
        self.value = value.astype(np.float32)
        self.momentum = np.zeros(value.size, np.float32)
        self.sgd = opc.compile(kernels_dsl.path("sgd_momentum"), N=value.size, weight_decay=5e-4)

    def step(self, gradient: Array, rate: float) -> None:
        rates = np.array([rate], np.float32)
        self.sgd(self.value.reshape(-1), self.momentum, np.ravel(gradient), rates)


class Block:
    """Convolution, batch norm, a shortcut in every second one, ReLU."""

    def __init__(self, inputs: int, mixed: str, tests: int, random: np.random.Generator, kind: str) -> None:
        sizes: dict[str, Any] = {"C": inputs, "H": 8, "W": 8, "K": CHANNELS, "R": 3, "S": 3}
        shortcut = ["residual"] if "add" in kind else []
        wrt = [*(["x"] if inputs > 1 else []), "w", "gamma", "beta", *shortcut]  # an image needs no gradient
        train = kernels_dsl.path(f"{kind}_train")
        self.pair = opc.grad(train, wrt=wrt, mixed=mixed, layout="nhwc", N=BATCH, CG=inputs, **sizes)
        self.test = opc.compile(kernels_dsl.path(kind), mixed=mixed, layout="nhwc", N=tests, **sizes)
        filters = random.standard_normal((CHANNELS, inputs, 3, 3)) * (2 / (9 * inputs)) ** 0.5
        ones, zeros = np.ones(CHANNELS), np.zeros(CHANNELS)
        self.parameters = [Parameter(filters), Parameter(ones), Parameter(zeros)]
        self.running = np.zeros(CHANNELS, np.float32), np.ones(CHANNELS, np.float32)
        self.gradients: list[Array] = []

    def forward(self, x: Array, *residual: Array) -> Array:
        values = [p.value for p in self.parameters]
        y, self.saved = self.pair.fwd(x, *values, *self.running, *residual)
        return np.asarray(y)

    def backward(self, dy: Array) -> dict[str, Array]:
        found = dict(zip(self.pair.wrt, self.pair.bwd(self.saved, dy), strict=True))
        self.gradients = [found[name] for name in ("w", "gamma", "beta")]
        return found

    def infer(self, x: Array, *residual: Array) -> Array:
        return np.asarray(self.test(x, *(p.value for p in self.parameters), *self.running, *residual))


class Network:
    """A first block, residual pairs of blocks, mean over each channel, a linear layer."""

    def __init__(self, mixed: str, pairs: int, tests: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.first = Block(1, mixed, tests, random, "conv_bn_relu")
        kinds = "conv_bn_relu", "conv_bn_add_relu"
        self.pairs = [[Block(CHANNELS, mixed, tests, random, k) for k in kinds] for _ in range(pairs)]
        image: dict[str, Any] = {"C": CHANNELS, "H": 8, "W": 8, "mixed": mixed, "layout": "nhwc"}
        self.add = opc.compile(kernels_dsl.path("add"), N=BATCH, **image)
        self.head = opc.grad(SOURCE, "head", wrt=["x", "w", "bias"], N=BATCH, K=CLASSES, **image)
        self.predict = opc.compile(SOURCE, "predict", N=tests, K=CLASSES, **image)
        weights = random.standard_normal((CLASSES, CHANNELS)) * CHANNELS**-0.5
        self.linear = [Parameter(weights), Parameter(np.zeros(CLASSES))]
        self.blocks = [self.first, *(block for pair in self.pairs for block in pair)]
        self.parameters = [*self.linear, *(p for block in self.blocks for p in block.parameters)]

    def step(self, x: Array, labels: Array, rate: float) -> float:
        """One step of training; the loss before it."""
        h = self.first.forward(x)
        for first, second in self.pairs:
            h = second.forward(first.forward(h), h)
        loss, saved = self.head.fwd(h, *(p.value for p in self.linear), labels)
        dh, *gradients = self.head.bwd(saved, np.ones(1, np.float32))
        for first, second in reversed(self.pairs):
            found = second.backward(dh)
            dh = self.add(first.backward(found["x"])["x"], found["residual"])
        self.first.backward(dh)
        gradients += [g for block in self.blocks for g in block.gradients]
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.step(gradient, rate)
        return float(loss[0])

    def accuracy(self, x: Array, labels: Array) -> float:
        """Share of the images that the running statistics classify rightly."""
        h = self.first.infer(x)
        for first, second in self.pairs:
            h = second.infer(first.infer(h), h)
        return float(np.mean(self.predict(h, *(p.value for p in self.linear)) == labels))


def digits() -> tuple[Array, ...]:
    """Images and labels to learn from, then those to test with."""
    x, y = load_digits(return_X_y=True)
    images = ((x - x.mean()) / x.std()).reshape(-1, 1, 8, 8).astype(np.float32)
    split = train_test_split(images, y.astype(np.int32), test_size=360, stratify=y, random_state=0)
    return split[0], split[2], split[1], split[3]


def batches(count: int, epochs: int, random: np.random.Generator) -> Iterator[tuple[float, Array]]:
    """Learning rate and images of each step: a fresh order every epoch, the rate falls as a cosine."""
    steps = epochs * (count // BATCH)
    for step in range(steps):
        at = step % (count // BATCH)
        if at == 0:
            order = random.permutation(count)
        warm = min(1.0, (step + 1) / 10)
        yield RATE * warm * (1 + np.cos(np.pi * step / steps)) / 2, order[at * BATCH : (at + 1) * BATCH]


def draw(losses: list[float], title: str, path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 3.5))
    axis.semilogy(losses)
    axis.set(xlabel="step", ylabel="loss", title=title)
    axis.grid(visible=True, alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=MIXED, default="f32", help="of products")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=2, help="residual pairs of blocks")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OPC_NUM_THREADS", "1")  # images this small are not worth the second one
    train_x, train_y, test_x, test_y = digits()
    network = Network(MIXED[options.dtype], options.pairs, len(test_x), options.seed)
    plan = list(batches(len(train_x), options.epochs, np.random.default_rng(options.seed)))
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    losses: list[float] = []
    with Progress(*columns) as progress:
        task = progress.add_task("", total=len(plan))
        for rate, chosen in plan:
            losses.append(network.step(train_x[chosen], train_y[chosen], rate))
            progress.update(task, advance=1, description=f"loss {np.mean(losses[-20:]):.4f}")
    accuracy = network.accuracy(test_x, test_y)
    path = Path("build") / f"digits-{options.dtype}.png"
    draw(losses, f"{options.dtype}: test accuracy {accuracy:.2%}", path)
    print(f"test accuracy {accuracy:.2%} on {len(test_x)} images; loss curve in {path}")


if __name__ == "__main__":
    main()
