"""Operators of the library in PyTorch, and random sizes for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

Array = Any
Sizes = Mapping[str, int]
# Tensors by the names of the kernel's arguments, and its sizes; results in the kernel's order.
Reference = Callable[[Mapping[str, Any], Sizes], tuple[Any, ...]]


@dataclass(frozen=True)
class Operator:
    """``kernel``: its name in the library; ``sizes``: a strategy; ``reference``: the same in PyTorch."""

    kernel: str
    sizes: st.SearchStrategy[dict[str, int]]
    reference: Reference


def _functional() -> Any:
    import torch.nn.functional

    return torch.nn.functional


@st.composite
def images(draw: st.DrawFn) -> dict[str, int]:
    small = st.integers(1, 7)
    return {"N": draw(st.integers(1, 3)), "C": draw(st.integers(1, 5)), "H": draw(small), "W": draw(small)}


@st.composite
def convolutions(draw: st.DrawFn, asymmetric: bool = False, grouped: bool = True) -> dict[str, int]:
    groups = draw(st.sampled_from([1, 1, 2, 3])) if grouped else 1
    inside = draw(st.integers(1, 4))
    sizes = {"CG": inside, "C": inside * groups, "K": draw(st.integers(1, 4)) * groups, "groups": groups}
    sizes |= {"R": draw(st.integers(1, 4)), "S": draw(st.integers(1, 4)), "N": draw(st.integers(1, 3))}
    sizes |= {"stride": draw(st.integers(1, 4)), "dilation": draw(st.integers(1, 3))}
    names = ("pad", "pad_bottom", "pad_left", "pad_right") if asymmetric else ("pad",)
    sizes |= {name: draw(st.integers(0, 3)) for name in names}
    top, left = sizes["pad"], sizes.get("pad_left", sizes["pad"])
    high = top + sizes.get("pad_bottom", top)
    wide = left + sizes.get("pad_right", left)
    sizes["H"] = draw(st.integers(1, 7)) + max(0, sizes["dilation"] * (sizes["R"] - 1) - high)
    sizes["W"] = draw(st.integers(1, 7)) + max(0, sizes["dilation"] * (sizes["S"] - 1) - wide)
    return sizes


@st.composite
def windows(draw: st.DrawFn) -> dict[str, int]:
    size = draw(st.integers(1, 4))
    sizes = {"size": size, "stride": draw(st.integers(1, 4)), "pad": draw(st.integers(0, size // 2))}
    least = max(1, size - 2 * sizes["pad"])
    side = st.integers(least, least + 6)
    return sizes | {
        "N": draw(st.integers(1, 3)),
        "C": draw(st.integers(1, 3)),
        "H": draw(side),
        "W": draw(side),
    }


def extents(**most: int) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({name: st.integers(1, n) for name, n in most.items()})


def _conv(t: Mapping[str, Any], s: Sizes) -> Any:
    pad = s["pad"]
    left = s.get("pad_left", pad)
    around = (left, s.get("pad_right", left), pad, s.get("pad_bottom", pad))
    x = _functional().pad(t["x"], around)
    return _functional().conv2d(
        x, t["w"], stride=s["stride"], dilation=s.get("dilation", 1), groups=s.get("groups", 1)
    )


def _normalised(a: Any, t: Mapping[str, Any]) -> Any:
    return _functional().batch_norm(a, None, None, t["gamma"], t["beta"], training=True, eps=1e-5)


def _batch_norm_train(t: Mapping[str, Any], s: Sizes) -> tuple[Any, ...]:
    if s["N"] * s["H"] * s["W"] > 1:
        return (_normalised(t["x"], t),)
    # PyTorch refuses one element per channel, whose deviation is 0.
    return ((t["x"] - t["x"]) * t["gamma"][:, None, None] + t["beta"][:, None, None],)


def _conv_bn_relu(t: Mapping[str, Any], s: Sizes) -> tuple[Any, ...]:
    mean, var, gamma, beta = (t[n][:, None, None] for n in ("mean", "var", "gamma", "beta"))
    return (((_conv(t, s) - mean) * (var + 1e-5).rsqrt() * gamma + beta).relu(),)


def _conv_bn_relu_train(t: Mapping[str, Any], s: Sizes) -> tuple[Any, ...]:
    a = _conv(t, s)
    if a.numel() > a.shape[1]:
        return (_normalised(a, t).relu(),)
    return (((a - a) * t["gamma"][:, None, None] + t["beta"][:, None, None]).relu(),)


def _max_pool(t: Mapping[str, Any], s: Sizes) -> tuple[Any, ...]:
    return (_functional().max_pool2d(t["x"], s["size"], s["stride"], s["pad"]),)


def _avg_pool(t: Mapping[str, Any], s: Sizes) -> tuple[Any, ...]:
    return (_functional().avg_pool2d(t["x"], s["size"], s["stride"], s["pad"]),)


def _layer_norm(t: Mapping[str, Any], s: Sizes) -> tuple[Any, ...]:
    return (_functional().layer_norm(t["x"], (s["N"],), t["gamma"], t["beta"], eps=1e-5),)


def _attention(t: Mapping[str, Any], s: Sizes) -> tuple[Any, ...]:
    return ((t["q"] @ t["k"].transpose(2, 3) / s["D"] ** 0.5).softmax(-1),)


def _cross_entropy(t: Mapping[str, Any], s: Sizes) -> tuple[Any, ...]:
    return (_functional().cross_entropy(t["x"], t["labels"].long(), ignore_index=-1).reshape(1),)


def _batch_stats(t: Mapping[str, Any], s: Sizes) -> tuple[Any, ...]:
    return t["x"].mean((0, 2, 3)), t["x"].var((0, 2, 3), correction=0)


OPERATORS = {
    o.kernel: o
    for o in (
        Operator("conv2d", convolutions(asymmetric=True), lambda t, s: (_conv(t, s),)),
        Operator(
            "conv_bn_relu", convolutions(grouped=False).map(lambda s: s | {"dilation": 1}), _conv_bn_relu
        ),
        Operator("conv_bn_relu_train", convolutions(), _conv_bn_relu_train),
        Operator("batch_norm_train", images(), _batch_norm_train),
        Operator("batch_stats", images(), _batch_stats),
        Operator("max_pool2d", windows(), _max_pool),
        Operator("avg_pool2d", windows(), _avg_pool),
        Operator("global_avg_pool", images(), lambda t, s: (t["x"].mean((2, 3)),)),
        Operator("matmul", extents(M=6, N=6, K=6), lambda t, s: (t["a"] @ t["b"],)),
        Operator("linear", extents(M=6, N=6, K=6), lambda t, s: (t["x"] @ t["w"].T + t["bias"],)),
        Operator("softmax", extents(M=5, N=9), lambda t, s: (t["x"].softmax(-1),)),
        Operator("layer_norm", extents(M=5, N=9), _layer_norm),
        Operator("gelu", extents(M=5, N=9), lambda t, s: (_functional().gelu(t["x"]),)),
        Operator("softmax_cross_entropy", extents(N=5, C=9), _cross_entropy),
        Operator("attention_scores", extents(B=2, H=2, M=4, N=4, D=4), _attention),
        Operator("add", images(), lambda t, s: (t["a"] + t["b"],)),
        Operator("relu", images(), lambda t, s: (t["x"].relu(),)),
        Operator("flatten", images(), lambda t, s: (t["x"].flatten(1),)),
        Operator("concat", extents(N=4, A=5, B=5), lambda t, s: (_concatenated(t),)),
    )
}


def _concatenated(t: Mapping[str, Any]) -> Any:
    import torch

    return torch.cat((t["a"], t["b"]), 1)
