"""Predictors compile few programs, and say the same whatever is batched with what."""

from dataclasses import replace

from flax import nnx
import numpy as np

from surrogate.atomistic.predict import ModelPredictor
from surrogate.atomistic.prototypes import crystal
from surrogate.data.atoms import Frames
from surrogate.models.atoms_base import AtomsGeometry
from surrogate.models.base import find_model


def test_relaxing_and_straining_compile_one_program():
    cls = find_model("descriptor")
    geometry = AtomsGeometry((29,), 5.0, 40.0, reference_energies=(-3.0,))
    config = cls.Config(channels=4, l_max=1, basis=4, readout=4)
    graphdef, params = nnx.split(cls(geometry, config, rngs=nnx.Rngs(0)))
    predictor = ModelPredictor(graphdef, params, geometry)
    start = crystal("Cu-fcc").frame
    strained = [replace(start, cell=s * start.cell, positions=s * start.positions) for s in (1.05, 1.0, 0.95)]
    alone = [predictor(frame) for frame in strained]  # 42, 42 and 54 neighbors
    together = predictor(Frames.concat(strained * 4))
    assert predictor._call._cache_size() == 1
    np.testing.assert_allclose(together.energy[:3], [p.energy[0] for p in alone], rtol=1e-5)
    np.testing.assert_allclose(together.stress[9:], [p.stress[0] for p in alone], atol=1e-5)
