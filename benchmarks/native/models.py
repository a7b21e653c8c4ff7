"""What is measured: surrogates of random weights, at sizes that simulations call, exported for both backends.

They are made as the tests of the export make theirs; ``potential`` waits for bundles of atoms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
import sys
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "native"))
from surrogates import make

from surrogate.core.spec import Variable
from surrogate.exporting.fields import field_functions
from surrogate.exporting.function import Function
from surrogate.exporting.write import export_bundle
from surrogate.run.artefact import read_artefact
from surrogate.run.surrogate_files import decode_netcdf


@dataclass(frozen=True)
class Case:
    """A model, its batches (1 and the largest), and why it is left out, where it is."""

    title: str
    model: str = ""
    levels: int = 20
    shape: tuple[int, int] = (32, 64)
    settings: dict[str, Any] = field(default_factory=dict)
    largest: int = 8
    absent: str = ""


CASES = {
    "mlp": Case(
        "MLP 100-256-256-100", "mlp", levels=100, shape=(1, 1), settings={"hidden": 256, "layers": 1}, largest=1024
    ),
    "unet": Case("UNet, 20 fields, 32×64", "unet", settings={"channels": [16, 32], "blocks": 1}),
    "fno": Case("FNO, 20 fields, 32×64", "fno", settings={"width": 20, "layers": 2, "modes": [8, 8]}),
    "sfno": Case("SFNO, 20 fields, 32×64", "sfno", settings={"width": 20, "layers": 2}),
    "transformer": Case(
        "Transformer, 20 fields, 32×64", "transformer", settings={"width": 64, "layers": 2, "heads": 4}
    ),
    "potential": Case("Potential, energy and forces", absent="there is no exported form of atoms yet"),
}


def surrogate_of(case: Case, directory: Path) -> Any:
    variables = tuple(
        Variable("temperature", "prognostic", "K", float(10 * k), "hPa") for k in range(1, case.levels + 1)
    )
    return make(
        directory, variables=variables, shape=case.shape, history=1, monthly=False, land=False, features=(),
        model=case.model, settings=case.settings,
    )  # fmt: skip


def function_of(surrogate: Any) -> Function:
    return field_functions(surrogate, decode_netcdf(read_artefact(surrogate.directory)[1]["golden.nc"]), [1])[0]


def prepare(name: str, work: Path, **given: Any) -> tuple[Function, Path]:
    """The function and its bundle in ``work``, made where it is not there yet."""
    case, bundle = CASES[name], work / f"{name}.sg"
    surrogate = surrogate_of(case, work / f"{name}.model") if not (work / f"{name}.model").exists() else None
    if surrogate is None:
        import shutil

        shutil.rmtree(work / f"{name}.model")
        surrogate = surrogate_of(case, work / f"{name}.model")
    if not bundle.exists():
        export_bundle(
            surrogate,
            bundle,
            batches=(1, case.largest),
            say=lambda text: print(text, file=sys.stderr, flush=True),
            **given,
        )
    return function_of(surrogate), bundle
