"""Functions as StableHLO programs of fixed batch sizes, and in the symbolic form of ``jax.export``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import export
import jax.numpy as jnp
from jaxlib.mlir import ir, passmanager
from jaxlib.mlir.dialects import stablehlo
import numpy as np

from surrogate.core.types import UserError
from surrogate.exporting.function import Argument, Function

PLATFORMS = ("cpu", "cuda", "tpu", "rocm")


def shapes(arguments: Sequence[Argument], batch: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    return tuple(jax.ShapeDtypeStruct((batch, *a.shape), jnp.dtype(a.dtype)) for a in arguments)


def _export(function: Function, platforms: Sequence[str], batch: Any) -> export.Exported:
    # Every parameter stays an argument, used or not, so that a program's arguments are those of the manifest.
    call = jax.jit(function.apply, keep_unused=True)
    parameters = tuple(jax.ShapeDtypeStruct(p.shape, p.dtype) for p in function.parameters.values())
    exported = export.export(call, platforms=list(platforms))(parameters, shapes(function.inputs, batch))
    expected = shapes(function.outputs, batch)
    for argument, got, want in zip(function.outputs, exported.out_avals, expected, strict=True):
        if got.shape != want.shape or got.dtype != want.dtype:
            raise ValueError(f"{function.name}: {argument.name} is {got}, declared {want.dtype}{list(want.shape)}")
    return exported


def lower(function: Function, platform: str, batch: int) -> bytes:
    """The program of ``batch`` samples for one platform: a StableHLO portable artifact.

    Its arguments are the parameters, then the inputs (batch, *shape). It is written in the StableHLO of
    twelve weeks before this JAX, so that plugins of that age read it, and without source locations.

    Raises:
        UserError: naming the target when JAX cannot lower the function for it.
    """
    try:
        exported = _export(function, [platform], batch)
    except (NotImplementedError, ValueError, TypeError) as error:
        raise UserError(f"{function.name} for {platform}, batch {batch}: JAX cannot lower it: {error}") from error
    age = stablehlo.StablehloCompatibilityRequirement.WEEK_12
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        passmanager.PassManager.parse("builtin.module(strip-debuginfo)").run(module.operation)
        version = stablehlo.get_version_from_compatibility_requirement(age)
        return stablehlo.serialize_portable_artifact_str(str(module), version)


def version() -> str:
    """The StableHLO version that :func:`lower` writes."""
    return str(
        stablehlo.get_version_from_compatibility_requirement(stablehlo.StablehloCompatibilityRequirement.WEEK_12)
    )


def symbolic(function: Function, platforms: Sequence[str]) -> bytes:
    """The function of any number of samples (one where it is ``single``) as ``jax.export`` serialises it, for Python.

    Raises:
        UserError: when the function cannot be expressed for a symbolic number of samples.
    """
    try:
        samples = 1 if function.single else export.symbolic_shape("samples")[0]
        return bytes(_export(function, platforms, samples).serialize())
    except ImportError as error:
        raise UserError(f"{function.name} for python: {error}") from error
    except (NotImplementedError, ValueError, TypeError) as error:
        raise UserError(
            f"{function.name} for python: JAX cannot express it for any number of samples: {error}"
        ) from error


def reference(function: Function) -> dict[str, np.ndarray]:
    """The outputs of the golden samples, computed by ``jax.jit`` in this process: name → (N, *shape)."""
    inputs = tuple(function.golden[a.name] for a in function.inputs)
    call, parameters = jax.jit(function.apply), tuple(function.parameters.values())
    size = 1 if function.single else len(inputs[0])
    pieces = [
        jax.device_get(call(parameters, tuple(x[i : i + size] for x in inputs))) for i in range(0, len(inputs[0]), size)
    ]
    return {a.name: np.concatenate(values) for a, *values in zip(function.outputs, *pieces, strict=True)}
