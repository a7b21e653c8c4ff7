"""A Surrogate on disk: ``model/`` with manifest, weights, statistics, golden vectors and a card."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from flax import nnx
import jax
import numpy as np
import xarray as xr

from surrogate.core.types import PyTree, UserError
from surrogate.domains.base import Domain, find_registered_domain
from surrogate.models.base import allow_model
from surrogate.run.artefact import decode_tensors, encode_tensors, read_artefact, write_artefact

FORMAT = 1


def flatten(tree: PyTree) -> dict[str, np.ndarray]:
    """Nested dicts of arrays → ``"blocks/0/kernel"`` → array."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(str(k.key) for k in path): np.asarray(leaf) for path, leaf in flat}


def unflatten(flat: dict[str, np.ndarray], like: PyTree) -> PyTree:
    """The inverse of :func:`flatten` for a tree of known structure.

    Raises:
        UserError: when a tensor is missing, unknown, or of another shape or dtype.
    """
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    names = ["/".join(str(k.key) for k in path) for path, _ in paths]
    if missing := set(names) - set(flat):
        raise UserError(f"the weights lack {sorted(missing)[0]!r}: they belong to another model")
    if extra := set(flat) - set(names):
        raise UserError(f"the weights hold {sorted(extra)[0]!r}, which this model does not have")
    for name, (_, leaf) in zip(names, paths, strict=True):
        if flat[name].shape != leaf.shape or flat[name].dtype != leaf.dtype:
            raise UserError(
                f"weight {name!r} is {flat[name].dtype}{list(flat[name].shape)}, "
                f"the model expects {leaf.dtype}{list(leaf.shape)}"
            )
    return jax.tree_util.tree_unflatten(structure, [flat[n] for n in names])


def encode_netcdf(arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays as a NetCDF-3 file in memory, a dimension per axis."""
    data = xr.Dataset({
        name: (tuple(f"{name}_{i}".replace(".", "_") for i in range(value.ndim)), value)
        for name, value in ((n, v.astype(np.int8) if v.dtype == np.uint8 else v) for n, v in arrays.items())
        if value.size
    })  # fmt: skip
    empty = {n: list(v.shape) for n, v in arrays.items() if not v.size}
    # NetCDF-3 has no dimension of size 0 besides the unlimited one: the shapes of empty arrays are an attribute.
    data.attrs["empty"] = ";".join(f"{n}:{','.join(map(str, s))}" for n, s in empty.items())
    return bytes(data.to_netcdf(engine="scipy", format="NETCDF3_64BIT"))


def decode_netcdf(content: bytes) -> dict[str, np.ndarray]:
    """The inverse of :func:`encode_netcdf`, through SciPy's reader, which is pure Python."""
    with xr.open_dataset(io.BytesIO(content), engine="scipy", decode_cf=False) as data:
        arrays = {str(n): v.values.astype(v.dtype.newbyteorder("=")) for n, v in data.data_vars.items()}
        for entry in filter(None, str(data.attrs.get("empty", "")).split(";")):
            name, _, shape = entry.partition(":")
            arrays[name] = np.zeros(tuple(int(s) for s in shape.split(",") if s), np.float32)
    return arrays


def write_surrogate(
    directory: Path, domain: Domain, graphdef: Any, params: PyTree, facts: dict[str, Any], card: str
) -> None:
    """Write ``directory`` (``model/``), whole or not at all.

    Args:
        facts: provenance and scores for the manifest, JSON values.
        card: text of ``MODEL_CARD.md``.
    """
    meaning, arrays = domain.artefact()
    experiment = domain.experiment
    golden = domain.golden(graphdef, params)
    settings = {k: v for k, v in dict(experiment.resolved.get("model") or {}).items() if k != "name"}
    manifest = {
        "format": FORMAT,
        "kind": "surrogate",
        "name": experiment.name,
        "domain": experiment.domain,
        "meaning": meaning,
        "model": {"name": experiment.model_name, "settings": settings},
        "tolerance": 1e-4,
        "provenance": facts,
    }
    files = {
        "weights.safetensors": encode_tensors(flatten(params)),
        "statistics.nc": encode_netcdf(arrays),
        "golden.nc": encode_netcdf(golden),
        "MODEL_CARD.md": card.encode(),
    }
    write_artefact(directory, files, manifest)


def load(path: str | Path, *, domain: type[Domain] | None = None, model: type[nnx.Module] | None = None) -> Any:
    """Open a trained surrogate: a run directory, its ``model/``, or ``runs/<experiment>/latest``.

    Every hash is verified before anything is parsed, and no code that the files name is run: model and
    domain are looked up among those that are installed.

    Args:
        domain, model: classes of your own that are not installed as entry points.

    Raises:
        UserError: for files that are missing, damaged, or not those of a surrogate.
    """
    directory = Path(path).expanduser()
    if (directory / "model").is_dir():
        directory = directory / "model"
    if not directory.is_dir():
        raise UserError(f"{directory} is not a surrogate: give a finished run's directory or its model/")
    manifest, files = read_artefact(directory.resolve())
    if manifest.get("kind") != "surrogate" or manifest.get("format") != FORMAT:
        raise UserError(f"{directory} holds {manifest.get('kind')!r} of format {manifest.get('format')!r}; "
                        f"this version reads surrogates of format {FORMAT}")  # fmt: skip
    found = domain or find_registered_domain(str(manifest["domain"]))
    if model is not None:
        allow_model(str(manifest["model"]["name"]), model)
    arrays = decode_netcdf(files["statistics.nc"])
    weights = decode_tensors(files["weights.safetensors"])

    def fill(model: nnx.Module) -> tuple[Any, PyTree]:
        graphdef, variables = nnx.split(model)
        return graphdef, unflatten(weights, nnx.to_pure_dict(variables))

    surrogate = found.restore(manifest, arrays, fill)
    surrogate.directory = directory
    return surrogate
