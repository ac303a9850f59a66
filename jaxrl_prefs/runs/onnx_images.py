"""The operations of networks on images as nodes of ONNX, which orders axes as [B, C, H, W]."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxrl_prefs.runs.onnx_graph import Graph, NotConvertible, Value


def convolution(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    """A convolution in any order of axes, with strides, zeros around, and a dilated kernel."""
    if any(step != 1 for step in params["lhs_dilation"]) or params["batch_group_count"] != 1:
        raise NotConvertible("a convolution with a dilated image or groups of the batch")
    numbers = params["dimension_numbers"]
    found = graph.add(
        "Conv",
        _transposed(graph, inputs[0], numbers.lhs_spec),
        _transposed(graph, inputs[1], numbers.rhs_spec),
        strides=[int(step) for step in params["window_strides"]],
        pads=[int(pad) for side in zip(*params["padding"], strict=True) for pad in side],
        dilations=[int(step) for step in params["rhs_dilation"]],
        group=int(params["feature_group_count"]),
    )
    return _transposed(graph, found, np.argsort(numbers.out_spec))


def _transposed(graph: Graph, value: Value, order: Any) -> Value:
    perm = [int(axis) for axis in order]
    if not isinstance(value, str):
        return np.ascontiguousarray(np.transpose(value, perm))
    return value if perm == sorted(perm) else graph.add("Transpose", value, perm=perm)


def pad(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    """A border of one number on both sides of every axis; a negative width cuts off."""
    low, high, inside = zip(*params["padding_config"], strict=True)
    if any(inside):
        raise NotConvertible("a border between the numbers of an array")
    value, filler = inputs[0], graph.cast(inputs[1], equation.outvars[0].aval.dtype)
    return graph.add("Pad", value, np.asarray([*low, *high], np.int64), filler)
