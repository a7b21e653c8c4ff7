"""Functions as ONNX programs of fixed batch sizes, for ONNX Runtime on a CPU.

jax2onnx converts the very function that StableHLO programs are lowered from. What it makes is then given the names of
the manifest, and the parameters are taken out: they become external initializers that lie in ``parameters.bin``, so
that weights are stored once, and ``onnxruntime.InferenceSession("NAME.sg/step.cpu.1.onnx")`` finds them as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import jax

from surrogate.core.types import UserError
from surrogate.exporting.function import Function
from surrogate.exporting.onnx_products import register
from surrogate.exporting.stablehlo import shapes

# Read by every ONNX Runtime that the library accepts (1.22).
OPSET = 21
NEEDED = ("jax2onnx", "onnx")
PARAMETERS = "parameters.bin"


def missing() -> list[str]:
    """Packages of the extra ``onnx`` that conversion needs and that are not installed."""
    return [name for name in NEEDED if find_spec(name) is None]


def convert(function: Function, batch: int, table: Sequence[Mapping[str, Any]]) -> tuple[bytes, list[str]]:
    """The program of ``batch`` samples.

    Args:
        table: where the parameters lie in ``parameters.bin``, as :func:`surrogate.exporting.files.pack` gives it.

    Returns:
        The ONNX file, inputs ``input/NAME`` and outputs ``output/NAME``, and the names of the parameters it takes.

    Raises:
        UserError: naming the function and the operation that cannot be converted.
    """
    if absent := missing():
        raise UserError(f"{function.name} for onnx: {absent[0]} is not installed (pip install 'surrogate[onnx]')")
    import jax2onnx

    register()
    count = len(function.parameters)

    def call(*arrays: Any) -> Any:
        return function.apply(arrays[:count], arrays[count:])

    given = [jax.ShapeDtypeStruct(p.shape, p.dtype) for p in function.parameters.values()]
    given += shapes(function.inputs, batch)
    try:
        model = jax2onnx.to_onnx(call, given, model_name=function.name, opset=OPSET, return_mode="proto")
    except Exception as error:  # whatever a converter raises on what it does not know
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = lines[0] if lines else type(error).__name__
        raise UserError(f"{function.name} for onnx, batch {batch}: it does not convert: {reason[:300]}") from error
    used = _arrange(model, function, {entry["name"]: entry for entry in table})
    return model.SerializeToString(deterministic=True), used


def _arrange(model: Any, function: Function, table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names, external parameters, and nothing of this machine: in place. The parameters that are used."""
    import onnx

    graph = model.graph
    wanted = [*function.parameters, *(f"input/{a.name}" for a in function.inputs)]
    if len(graph.input) != len(wanted) or len(graph.output) != len(function.outputs):
        raise UserError(f"{function.name} for onnx: the converter made another number of inputs or outputs")
    names = {value.name: name for value, name in zip(graph.input, wanted, strict=True)}
    for value, argument in zip(graph.output, function.outputs, strict=True):
        name = f"output/{argument.name}"
        if value.name in names:  # an input, or one array that is two outputs
            graph.node.append(onnx.helper.make_node("Identity", [value.name], [name]))
            value.name = name
        else:
            names[value.name] = name
    used: set[str] = set()
    _rename(graph, names, used)
    parameters = [name for name in function.parameters if name in used]
    for name in parameters:
        graph.initializer.append(_external(function.parameters[name], name, table[name]))
    inputs = [value for value in graph.input if value.name not in function.parameters]
    del graph.input[:]
    graph.input.extend(inputs)
    del model.metadata_props[:]
    model.doc_string = graph.doc_string = ""
    return parameters


def _rename(graph: Any, names: Mapping[str, str], used: set[str]) -> None:
    """Give values their new names in a graph and the graphs within it; collect the names that nodes read."""
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
        value.doc_string = ""
    # Shapes between are worked out again by the runtime.
    del graph.value_info[:]
    del graph.metadata_props[:]
    for node in graph.node:
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
        used.update(node.input)
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                _rename(inner, names, used)
    used.update(value.name for value in graph.output)


def _external(value: Any, name: str, entry: Mapping[str, Any]) -> Any:
    import onnx

    tensor = onnx.TensorProto(
        name=name, dims=value.shape, data_type=onnx.helper.np_dtype_to_tensor_dtype(value.dtype),
        data_location=onnx.TensorProto.EXTERNAL,
    )  # fmt: skip
    for key, text in (("location", PARAMETERS), ("offset", entry["offset"]), ("length", entry["size"])):
        tensor.external_data.add(key=key, value=str(text))
    return tensor
