"""The results as Markdown."""

from __future__ import annotations

from typing import Any


def markdown(facts: dict[str, Any], results: list[dict[str, Any]], titles: dict[str, str]) -> str:
    lines = [
        f"{facts['processor']}, {facts['cores']} cores; jax {facts['jax']}, PJRT plugin {facts['plugin']}, "
        f"ONNX Runtime {facts['onnxruntime']}; medians of {facts['rounds']} rounds.",
        "",
        "Time of a call, host to host, in microseconds: p50 / p99, and in brackets p50 over that of `jax.jit` in the same "
        "round. `jit` as JAX comes, `jit 1` without threads of its own; *bare* is the plugin alone.",
        "",
        "| model | batch or size | jit | jit 1 | bare PJRT | libsurrogate PJRT | libsurrogate ONNX | library over bare |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def cell(result: dict[str, Any], side: str) -> str:
        r = result["sides"].get(side)
        return f"{r['p50']:.4g} / {r['p99']:.4g} ({r['ratio']:.2f})" if r else "–"

    for r in results:
        cells = " | ".join(cell(r, side) for side in ("jit", "jit1", "bare", "pjrt", "onnx"))
        lines.append(f"| {titles[r['model']]} | {r['size']} | {cells} | {r['overhead']:+.2f} |")
    lines += [
        "",
        "Allocations in a call after the first, by the library and by all; peak memory; opening, which verifies, compiles "
        "and checks; CPUs that a call computes on; calls a second of two threads on two CPUs over those of one thread on one; largest difference from `jax.jit` over the largest value.",
        "",
        "| model | batch or size | backend | allocations, library | all | memory, MiB (jit) | open, ms | from the cache, ms "
        "| CPUs of a call | two threads | error |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        for side in ("pjrt", "onnx"):
            if not (s := r["sides"].get(side)):
                continue
            cached = f"{s['open']['cached']:.0f}" if "cached" in s["open"] else "–"
            memory = f"{s['memory']:.0f} ({r['sides']['jit']['memory']:.0f})"
            lines.append(
                f"| {titles[r['model']]} | {r['size']} | {side} | {s['allocations']:.0f} | {s['all_allocations']:.0f} "
                f"| {memory} | {s['open']['cold']:.0f} | {cached} | {s['cores']:.2f} | {s['two_threads']:.2f} | {s['error']:.1e} |"
            )
    return "\n".join(lines) + "\n"
