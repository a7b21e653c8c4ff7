"""What is measured: surrogates of random weights, at sizes that simulations call, exported for both backends.

They are made as the tests of the export make theirs. Of a potential the sizes are those of systems: a program takes one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
import shutil
import sys
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "native"))
from potentials import make_potential
from surrogates import make

from surrogate.core.spec import Variable
from surrogate.exporting.atoms import atoms_functions, golden_structures
from surrogate.exporting.fields import field_functions
from surrogate.exporting.function import Function
from surrogate.exporting.write import export_bundle
from surrogate.run.artefact import read_artefact
from surrogate.run.surrogate_files import decode_netcdf


@dataclass(frozen=True)
class Case:
    """A model and its sizes: batches of 1 and ``largest``, or of a potential the ``capacities`` (atoms, neighbors)."""

    title: str
    model: str = ""
    levels: int = 20
    shape: tuple[int, int] = (32, 64)
    settings: dict[str, Any] = field(default_factory=dict)
    largest: int = 8
    capacities: tuple[tuple[int, int], ...] = ()


CASES = {
    "mlp": Case(
        "MLP 100-256-256-100", "mlp", levels=100, shape=(1, 1), settings={"hidden": 256, "layers": 1}, largest=1024
    ),
    "unet": Case("UNet, 20 fields, 32×64", "unet", settings={"channels": [16, 32], "blocks": 1}),
    "fno": Case("FNO, 20 fields, 32×64", "fno", settings={"width": 20, "layers": 2, "modes": [8, 8]}),
    "sfno": Case("SFNO, 20 fields, 32×64", "sfno", settings={"width": 20, "layers": 2}),
    "transformer": Case(
        "Transformer, 20 fields, 32×64", "transformer", settings={"channels": 64, "layers": 2, "heads": 4}
    ),
    # The network with messages; silicon at 5 Å has 28 neighbors.
    "potential": Case("Potential, energies and forces", "potential", capacities=((64, 28), (512, 28))),
}


def surrogate_of(case: Case, directory: Path) -> Any:
    if case.capacities:
        return make_potential(case.model, directory, settings=case.settings)
    variables = tuple(
        Variable("temperature", "prognostic", "K", float(10 * k), "hPa") for k in range(1, case.levels + 1)
    )
    return make(
        directory, variables=variables, shape=case.shape, history=1, monthly=False, land=False, features=(),
        model=case.model, settings=case.settings,
    )  # fmt: skip


def measured(case: Case, surrogate: Any) -> list[tuple[Function, int, str]]:
    """What is called: function, batch, and the size in words."""
    golden = decode_netcdf(read_artefact(surrogate.directory)[1]["golden.nc"])
    if not case.capacities:
        function = field_functions(surrogate, golden, [1])[0]
        return [(function, batch, str(batch)) for batch in (1, case.largest)]
    structures = golden_structures(surrogate.geometry, golden)
    found = atoms_functions(surrogate.geometry, surrogate.graphdef, surrogate.params, case.capacities, structures)
    return [
        (function, 1, f"{atoms} atoms") for function, (atoms, _) in zip(found.functions, case.capacities, strict=True)
    ]


def prepare(name: str, work: Path, **given: Any) -> tuple[list[tuple[Function, int, str]], Path]:
    """What is measured and its bundle in ``work``, made where it is not there yet."""
    case, bundle, model = CASES[name], work / f"{name}.sg", work / f"{name}.model"
    shutil.rmtree(model, ignore_errors=True)
    surrogate = surrogate_of(case, model)
    if not bundle.exists():
        sizes: dict[str, Any] = {"capacities": case.capacities} if case.capacities else {"batches": (1, case.largest)}
        export_bundle(
            surrogate,
            bundle,
            say=lambda text: print(text, file=sys.stderr, flush=True),
            **sizes,
            **given,
        )
    return measured(case, surrogate), bundle
