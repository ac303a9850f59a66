"""The operations of JAX that policies are made of, as nodes of ONNX.

Loops are unrolled, as their lengths are known, and numbers that do not depend on the observation or
the draw, such as a loop's counter, are computed while converting. Arrays of that kind are left to
the runtime, which computes them once, when it loads the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from jaxrl_prefs.runs import onnx_images
from jaxrl_prefs.runs.onnx_graph import Graph, NotConvertible, Value, whole

LONGEST = 1000  # iterations of a loop that is unrolled

SAME = {  # operations with one node of the same meaning
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min"},
    **{"pow": "Pow", "neg": "Neg", "exp": "Exp", "log": "Log", "tanh": "Tanh", "sqrt": "Sqrt"},
    **{"sin": "Sin", "cos": "Cos", "tan": "Tan", "sinh": "Sinh", "cosh": "Cosh", "abs": "Abs"},
    **{"asin": "Asin", "acos": "Acos", "atan": "Atan", "asinh": "Asinh", "acosh": "Acosh"},
    **{"atanh": "Atanh", "erf": "Erf", "logistic": "Sigmoid", "sign": "Sign", "floor": "Floor"},
    **{"ceil": "Ceil", "eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater"},
    **{"ge": "GreaterOrEqual", "lt_to": "Less", "le_to": "LessOrEqual"},
}
LOGICAL = {  # the node for truth values, and the one for integers
    **{"and": ("And", "BitwiseAnd"), "or": ("Or", "BitwiseOr"), "xor": ("Xor", "BitwiseXor")},
    "not": ("Not", "BitwiseNot"),
}
REDUCTIONS = {"reduce_sum": "Sum", "reduce_max": "Max", "reduce_min": "Min", "reduce_prod": "Prod"}
IDENTICAL = ("stop_gradient", "copy", "copy_p", "optimization_barrier")


def convert(
    graph: Graph, jaxpr: Any, consts: Sequence[Any], inputs: Sequence[Value]
) -> list[Value]:
    """Adds the nodes of a jaxpr to a graph; returns its outputs.

    Raises:
        NotConvertible: for an operation that has no ONNX translation.
    """
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *inputs), strict=True))

    def read(place: Any) -> Any:
        return np.asarray(place.val) if isinstance(place, core.Literal) else values[place]

    for equation in jaxpr.eqns:
        found = _convert(graph, equation, [read(place) for place in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(place) for place in jaxpr.outvars]


def _convert(graph: Graph, equation: Any, inputs: list[Any]) -> list[Value]:
    name, params = equation.primitive.name, equation.params
    if name in LOOPS:
        return LOOPS[name](graph, inputs, params)
    for inner in (params.get(key) for key in ("jaxpr", "call_jaxpr", "fun_jaxpr")):
        if inner is not None:
            consts = getattr(inner, "consts", ())
            return convert(graph, getattr(inner, "jaxpr", inner), consts, inputs)
    is_known = not any(isinstance(each, str) for each in inputs)
    if is_known and all(_is_number(place.aval) for place in equation.outvars):
        found = equation.primitive.bind(*map(jax.numpy.asarray, inputs), **params)
        several = found if equation.primitive.multiple_results else [found]
        return [np.asarray(each) for each in several]
    if name in IDENTICAL:
        return list(inputs)
    if name == "split":
        return _split(graph, inputs[0], params)
    operation = OPERATIONS.get(name)
    if operation is None:
        raise NotConvertible(f"the operation {name}")
    return [operation(graph, inputs, params, equation)]


def _is_number(array: Any) -> bool:
    """Whether an array is one number, or integers: places, counters."""
    is_whole = array.dtype in (np.int32, bool)
    return array.shape == () or (is_whole and all(isinstance(size, int) for size in array.shape))


# --- Element by element ---------------------------------------------------------------------------


def _same(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add(SAME[equation.primitive.name], *inputs)


def _logical(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    is_number = equation.invars[0].aval.dtype != bool
    return graph.add(LOGICAL[equation.primitive.name][is_number], *inputs)


def _different(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("Not", graph.add("Equal", *inputs))


def _left(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("BitShift", *inputs, direction="LEFT")


def _right(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    if equation.invars[0].aval.dtype.kind != "u":
        raise NotConvertible("a shift of signed numbers")
    return graph.add("BitShift", *inputs, direction="RIGHT")


def _square(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("Mul", inputs[0], inputs[0])


def _integer_pow(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("Pow", inputs[0], _number(params["y"], equation))


def _log1p(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("Log", graph.add("Add", inputs[0], _number(1, equation)))


def _expm1(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("Sub", graph.add("Exp", inputs[0]), _number(1, equation))


def _rsqrt(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("Reciprocal", graph.add("Sqrt", inputs[0]))


def _number(value: float, equation: Any) -> np.ndarray:
    return np.asarray(value, equation.outvars[0].aval.dtype)


def _is_finite(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    strange = graph.add("Or", graph.add("IsNaN", inputs[0]), graph.add("IsInf", inputs[0]))
    return graph.add("Not", strange)


def _cast(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.cast(inputs[0], params["new_dtype"])


def _select(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    which, *cases = inputs
    if len(cases) != 2 or equation.invars[0].aval.dtype != bool:
        raise NotConvertible(f"a choice among {len(cases)}")
    if equation.invars[1].aval.dtype != bool:
        return graph.add("Where", which, cases[1], cases[0])
    no, yes = (graph.cast(case, np.int32) for case in cases)  # runtimes choose no truth values
    return graph.cast(graph.add("Where", which, yes, no), bool)


def _clamp(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    low, value, high = inputs
    return graph.add("Min", graph.add("Max", value, low), high)


# --- Shapes ---------------------------------------------------------------------------------------


def _reshape(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.reshape(inputs[0], equation.outvars[0].aval.shape)


def _broadcast(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    sizes, before = equation.outvars[0].aval.shape, equation.invars[0].aval.shape
    places = dict(zip(params["broadcast_dimensions"], before, strict=True))
    expanded = [places.get(place, 1) for place in range(len(sizes))]
    value = graph.reshape(inputs[0], expanded)
    if tuple(expanded) == tuple(sizes):
        return value
    wanted = [1 if size == expanded[place] else size for place, size in enumerate(sizes)]
    return graph.add("Expand", value, graph.shape(wanted))


def _iota(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    sizes, along = equation.outvars[0].aval.shape, params["dimension"]
    line = graph.cast(graph.iota(sizes[along]), params["dtype"])
    value = graph.reshape(line, [x if n == along else 1 for n, x in enumerate(sizes)])
    return value if len(sizes) == 1 else graph.add("Expand", value, graph.shape(sizes))


def _transpose(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("Transpose", inputs[0], perm=[int(x) for x in params["permutation"]])


def _concatenate(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("Concat", *inputs, axis=int(params["dimension"]))


def _stack(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    axis, sizes = int(params["axis"]), list(equation.outvars[0].aval.shape)
    sizes[axis] = 1
    return graph.add("Concat", *(graph.reshape(each, sizes) for each in inputs), axis=axis)


def _split(graph: Graph, value: Value, params: Any) -> list[Value]:
    sizes = np.asarray(params["sizes"], np.int64)
    found: list[Value] = graph.add(
        "Split", value, sizes, axis=int(params["axis"]), count=len(sizes)
    )
    return found


def _slice(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    sizes = equation.invars[0].aval.shape
    begins, ends = params["start_indices"], params["limit_indices"]
    steps = params["strides"] or (1,) * len(sizes)
    return _part(graph, inputs[0], sizes, list(zip(begins, ends, steps, strict=True)))


def _dynamic_slice(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    value, *begins = inputs
    if any(isinstance(each, str) for each in begins):
        raise NotConvertible("a slice whose place depends on the observation")
    sizes, lengths = equation.invars[0].aval.shape, params["slice_sizes"]
    parts = []
    for size, begin, length in zip(sizes, begins, lengths, strict=True):
        first = 0 if size == length else min(max(int(np.asarray(begin)), 0), size - length)
        parts.append((first, first + length, 1))
    return _part(graph, value, sizes, parts)


def _part(graph: Graph, value: Value, sizes: Any, parts: list[tuple[Any, Any, int]]) -> Value:
    """A slice, {axis: (begin, end, step)}; whole axes may have any size."""
    cut = [n for n, part in enumerate(parts) if part != (0, sizes[n], 1)]
    if not cut:
        return value
    columns = np.asarray([parts[axis] for axis in cut], np.int64).T
    begins, ends, steps = columns
    return graph.add("Slice", value, begins, ends, np.asarray(cut, np.int64), steps)


def _gather(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    """Every entry by its place in the flattened operand.

    An index beyond the end is moved to the last place, as JAX's mode "clip" does.
    """
    numbers, lengths = params["dimension_numbers"], params["slice_sizes"]
    sizes, rank = equation.invars[0].aval.shape, len(equation.outvars[0].aval.shape)
    offsets = [int(place) for place in numbers.offset_dims]
    batches = [place for place in range(rank) if place not in offsets]
    hidden = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    shown = [axis for axis in range(len(sizes)) if axis not in hidden]
    indices, index_sizes = graph.cast(inputs[1], np.int64), equation.invars[1].aval.shape
    flat: Value = np.zeros((1,) * rank, np.int64)

    def along(place: int, size: Any) -> Value:
        return graph.reshape(graph.iota(size), [size if n == place else 1 for n in range(rank)])

    for axis, size in enumerate(sizes):
        pieces = list[Value]()
        if axis in shown and not (isinstance(lengths[axis], int) and lengths[axis] == 1):
            pieces.append(along(offsets[shown.index(axis)], lengths[axis]))
        if axis in numbers.operand_batching_dims:
            at = numbers.start_indices_batching_dims[numbers.operand_batching_dims.index(axis)]
            pieces.append(along(batches[at], size))
        if axis in numbers.start_index_map and size != lengths[axis]:
            column = np.int64(numbers.start_index_map.index(axis))
            begin = graph.add("Gather", indices, column, axis=len(index_sizes) - 1)
            last = np.int64(size - lengths[axis])
            begin = graph.add("Min", graph.add("Max", begin, np.int64(0)), last)
            spread = dict(zip(batches, index_sizes[:-1], strict=True))
            pieces.append(graph.reshape(begin, [spread.get(n, 1) for n in range(rank)]))
        if not pieces:
            continue
        stride = np.prod([int(x) for x in sizes[axis + 1 :]], dtype=np.int64)
        for piece in pieces:
            flat = graph.add("Add", flat, graph.add("Mul", piece, stride))
    return graph.add("Gather", graph.add("Reshape", inputs[0], whole(-1)), flat, axis=0)


# --- Sums and products ----------------------------------------------------------------------------


def _reduce(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return _reduced(graph, REDUCTIONS[equation.primitive.name], inputs[0], params)


def _reduced(graph: Graph, kind: str, value: Value, params: Any) -> Value:
    return graph.add(f"Reduce{kind}", value, np.asarray(params["axes"], np.int64), keepdims=0)


def _reduce_truth(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    kind = "Min" if equation.primitive.name == "reduce_and" else "Max"
    found = _reduced(graph, kind, graph.cast(inputs[0], np.int32), params)
    return graph.cast(found, bool)


def _arg(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    kind = {"argmax": "ArgMax", "argmin": "ArgMin"}[equation.primitive.name]
    (axis,) = params["axes"]
    return graph.cast(graph.add(kind, inputs[0], axis=int(axis), keepdims=0), params["index_dtype"])


def _cumsum(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    return graph.add("CumSum", inputs[0], np.int64(params["axis"]), reverse=int(params["reverse"]))


def _dot(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    """A product of matrices; of any other form, an Einsum."""
    if equation.invars[0].aval.dtype == jnp.bfloat16:  # rounded factors, summed in float32
        inputs = [graph.cast(each, np.float32) for each in inputs]
    (contracted, others), (left_batch, right_batch) = params["dimension_numbers"]
    left, right = (len(place.aval.shape) for place in equation.invars)
    if not left_batch and (list(contracted), list(others), right) == ([left - 1], [0], 2):
        return graph.add("MatMul", *inputs)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    first = [next(letters) for _ in range(left)]
    second = [""] * right
    for mine, theirs in (*zip(left_batch, right_batch), *zip(contracted, others)):  # noqa: B905
        second[theirs] = first[mine]
    second = [each or next(letters) for each in second]
    batch = [first[n] for n in left_batch]
    free = [x for n, x in enumerate(first) if n not in (*left_batch, *contracted)]
    free += [x for n, x in enumerate(second) if n not in (*right_batch, *others)]
    text = f"{''.join(first)},{''.join(second)}->{''.join(batch + free)}"
    return graph.add("Einsum", *inputs, equation=text)


def _reduce_precision(graph: Graph, inputs: list[Value], params: Any, equation: Any) -> Value:
    bits = params["exponent_bits"], params["mantissa_bits"]
    if bits == (8, 7) and equation.invars[0].aval.dtype == np.float32:
        return graph.cast(graph.cast(inputs[0], jnp.bfloat16), np.float32)
    return inputs[0]


OPERATIONS: dict[str, Callable[..., Value]] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(LOGICAL, _logical),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **{"ne": _different, "shift_left": _left, "shift_right_logical": _right, "square": _square},
    **{"integer_pow": _integer_pow, "log1p": _log1p, "expm1": _expm1, "rsqrt": _rsqrt},
    **{"is_finite": _is_finite, "convert_element_type": _cast, "select_n": _select},
    **{"clamp": _clamp, "reshape": _reshape, "squeeze": _reshape, "expand_dims": _reshape},
    **{"broadcast_in_dim": _broadcast, "iota": _iota, "transpose": _transpose},
    **{"concatenate": _concatenate, "stack": _stack, "slice": _slice, "gather": _gather},
    **{"dynamic_slice": _dynamic_slice, "reduce_and": _reduce_truth, "reduce_or": _reduce_truth},
    **{"argmax": _arg, "argmin": _arg, "cumsum": _cumsum, "dot_general": _dot},
    **{"reduce_precision": _reduce_precision, "pad": onnx_images.pad},
    "conv_general_dilated": onnx_images.convolution,
}


# --- Loops, unrolled ------------------------------------------------------------------------------


def _scan(graph: Graph, inputs: list[Value], params: Any) -> list[Value]:
    length, inner = params["length"], params["jaxpr"]
    first, both = params["num_consts"], params["num_consts"] + params["num_carry"]
    if length > LONGEST:
        raise NotConvertible(f"a loop of {length} iterations (more than {LONGEST})")
    state, columns = inputs[first:both], inputs[both:]
    count = len(inner.jaxpr.outvars) - len(state)
    rows: list[list[Value]] = [[] for _ in range(count)]
    order = range(length - 1, -1, -1) if params["reverse"] else range(length)
    for place in order:
        row = [_row(graph, column, place) for column in columns]
        found = convert(graph, inner.jaxpr, inner.consts, [*inputs[:first], *state, *row])
        state = found[: len(state)]
        for kept, each in zip(rows, found[len(state) :], strict=True):
            kept.insert(0, each) if params["reverse"] else kept.append(each)
    return [*state, *(_stacked(graph, kept) for kept in rows)]


def _row(graph: Graph, column: Value, place: int) -> Value:
    if isinstance(column, str):
        return graph.add("Gather", column, np.int64(place), axis=0)
    return np.asarray(column)[place]


def _stacked(graph: Graph, rows: list[Value]) -> Value:
    if not any(isinstance(row, str) for row in rows):
        return np.stack([np.asarray(row) for row in rows])
    zero = whole(0)
    return graph.add("Concat", *(graph.add("Unsqueeze", row, zero) for row in rows), axis=0)


def _while(graph: Graph, inputs: list[Value], params: Any) -> list[Value]:
    first, both = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    going, body, state = params["cond_jaxpr"], params["body_jaxpr"], inputs[both:]
    for _ in range(LONGEST + 1):
        (on,) = convert(graph, going.jaxpr, going.consts, [*inputs[:first], *state])
        if isinstance(on, str):
            raise NotConvertible("a loop whose length depends on the observation")
        if not on:
            return state
        state = convert(graph, body.jaxpr, body.consts, [*inputs[first:both], *state])
    raise NotConvertible(f"a loop of more than {LONGEST} iterations")


def _cond(graph: Graph, inputs: list[Value], params: Any) -> list[Value]:
    index, *operands = inputs
    if isinstance(index, str):
        raise NotConvertible("a branch that depends on the observation")
    branches = params["branches"]
    chosen = branches[min(max(int(np.asarray(index)), 0), len(branches) - 1)]
    return convert(graph, chosen.jaxpr, chosen.consts, operands)


LOOPS: dict[str, Callable[..., list[Value]]] = {"scan": _scan, "while": _while, "cond": _cond}
