"""An ONNX graph in the making: nodes, constants, and shapes that depend on the batch.

Nodes are those of operator set 18, which ONNX Runtime reads since its release 1.14.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrl_prefs.errors import ConfigError

OPSET, IR_VERSION = 18, 8
PRODUCER = "jaxrl_prefs"

Value = str | np.ndarray | np.generic  # the name of a node's output, or a known number


def whole(*numbers: int) -> np.ndarray:
    """Numbers that say places or sizes: int64, as ONNX wants them."""
    return np.asarray(numbers, np.int64)


class NotConvertible(Exception):
    """An operation that has no ONNX translation; the message names it."""


def library() -> Any:
    """The package onnx.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ConfigError(
            "ONNX files need the packages onnx and onnxruntime: pip install 'jaxrl_prefs[onnx]'"
        ) from error
    return onnx


class Graph:
    """Collects nodes; a value is a name, or an array as long as nothing of the input is in it."""

    def __init__(self, observation: str, batch: Any) -> None:
        self._onnx = library()
        self._batch, self._observation = batch, observation
        self._batch_name = ""
        self._nodes: list[Any] = []
        self._constants: dict[tuple[Any, ...], str] = {}
        self._known: dict[tuple[Any, ...], Any] = {}
        self._initializers: list[Any] = []

    def add(self, operator: str, *inputs: Value, count: int = 0, **attributes: Any) -> Any:
        """Adds a node; returns the name of its output, or a list of `count` names.

        A node that is there already is used again.
        """
        names = [self.name(each) for each in inputs]
        key = (operator, tuple(names), str(sorted(attributes.items())))
        if key in self._known:
            return self._known[key]
        first = f"v{len(self._nodes)}"
        outputs = [f"{first}_{place}" for place in range(count)] if count else [first]
        self._nodes.append(self._onnx.helper.make_node(operator, names, outputs, **attributes))
        self._known[key] = outputs if count else first
        return self._known[key]

    def name(self, value: Value) -> str:
        """The name of a value; a number becomes a constant of the file, once."""
        if isinstance(value, str):
            return value
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"c{len(self._constants)}"
            tensor = self._onnx.numpy_helper.from_array(array, self._constants[key])
            self._initializers.append(tensor)
        return self._constants[key]

    def cast(self, value: Value, dtype: Any) -> Value:
        """The value in another type of numbers."""
        if not isinstance(value, str):
            return np.asarray(value).astype(dtype)
        kind = self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.add("Cast", value, to=kind)

    def extent(self, size: Any) -> Value:
        """A size of an array, int64 [1]: a number, or a multiple of the batch."""
        if isinstance(size, int | np.integer):
            return whole(int(size))
        if not self._batch_name:
            ends = (whole(0), whole(1), whole(0))
            self._batch_name = self.add("Slice", self.add("Shape", self._observation), *ends)
        factor, rest = 0, size
        while not isinstance(rest, int):
            factor, rest = factor + 1, rest - self._batch
            if factor > 10_000:
                raise NotConvertible(f"an array of size {size}")
        found = self._batch_name
        if factor != 1:
            found = self.add("Mul", found, whole(factor))
        return self.add("Add", found, whole(rest)) if rest else found

    def shape(self, sizes: Sequence[Any]) -> Value:
        """The sizes of an array, int64 [rank]."""
        if all(isinstance(size, int | np.integer) for size in sizes):
            return np.asarray(sizes, np.int64)
        return self.add("Concat", *map(self.extent, sizes), axis=0)

    def reshape(self, value: Value, sizes: Sequence[Any]) -> Value:
        """The value in another shape."""
        known = [isinstance(size, int | np.integer) for size in sizes]
        if not isinstance(value, str) and all(known):
            return np.asarray(value).reshape([int(size) for size in sizes])
        if known.count(False) == 1:
            return self.add(
                "Reshape",
                value,
                whole(*(s if k else -1 for s, k in zip(sizes, known, strict=True))),
            )
        return self.add("Reshape", value, self.shape(sizes))

    def iota(self, size: Any) -> Value:
        """0, 1, ... as int64 [size]."""
        if isinstance(size, int | np.integer):
            return np.arange(size, dtype=np.int64)
        end = self.add("Squeeze", self.extent(size), whole(0))
        return self.add("Range", np.int64(0), end, np.int64(1))

    def model(
        self,
        inputs: Sequence[tuple[str, Any, Sequence[Any]]],
        output: tuple[str, Value, Any, Sequence[Any]],
        notes: dict[str, str],
    ) -> bytes:
        """The file: checked by the package onnx, with `notes` as its metadata.

        Args:
            inputs: (name, dtype, sizes) of each; a size that is a text is free.
            output: (name, value, dtype, sizes).
            notes: {key: text}.
        """
        helper = self._onnx.helper
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(d)), sizes)
            for name, d, sizes in (*inputs, (output[0], *output[2:]))
        ]
        last = helper.make_node("Identity", [self.name(output[1])], [output[0]])
        nodes, used = _needed([*self._nodes, last], output[0])
        kept = [each for each in self._initializers if each.name in used]
        graph = helper.make_graph(nodes, "policy", infos[:-1], infos[-1:], kept)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name=PRODUCER
        )
        helper.set_model_props(model, notes)
        self._onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def _needed(nodes: Sequence[Any], output: str) -> tuple[list[Any], set[str]]:
    """The nodes on which an output depends, in order, and the names of all values among them."""
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1], wanted
