"""What jax2onnx has to know of our own operations: products with a constant matrix are ONNX's MatMul."""

from __future__ import annotations

from typing import Any

from surrogate.models.constant_matrix import PRIMITIVE


class _ConstantMatrixProduct:
    """(M, K) times (G, K, N) or (K, N): MatMul's broadcasting is that of the operation."""

    def lower(self, ctx: Any, eqn: Any) -> None:
        matrix, _, x = eqn.invars  # the second one serves the derivative, which has been taken by now
        (out,) = eqn.outvars
        factors = [ctx.get_value_for_var(v, name_hint=ctx.fresh_name("product_in")) for v in (matrix, x)]
        wanted = ctx.get_value_for_var(out, name_hint=ctx.fresh_name("product_out"))
        result = ctx.builder.MatMul(*factors, _outputs=[wanted.name])
        result.type, result.shape = wanted.type, wanted.shape
        ctx.bind_value_for_var(out, result)


def register() -> None:
    """Once a process is enough, and more do no harm."""
    from jax2onnx.plugins.plugin_system import PLUGIN_REGISTRY

    PLUGIN_REGISTRY.setdefault(PRIMITIVE, _ConstantMatrixProduct())
