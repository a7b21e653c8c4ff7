"""Augmentation keeps input and output together."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.data.augment import check_square, random_transpose


def test_rows_and_columns_are_exchanged_in_all_fields_or_in_none() -> None:
    rng = np.random.default_rng(0)
    batch = {"forcing": rng.normal(size=(2, 1, 4, 4, 1)), "target": rng.normal(size=(2, 1, 4, 4, 2))}
    seen = set()
    for seed in range(20):
        result = random_transpose(batch, jax.random.key(seed))
        exchanged = not np.allclose(result["forcing"], batch["forcing"])
        seen.add(exchanged)
        for name, value in batch.items():
            expected = value.transpose(0, 1, 3, 2, 4) if exchanged else value
            np.testing.assert_allclose(result[name], expected, rtol=1e-6)
    assert seen == {True, False}


def test_only_a_square_plane_can_be_transposed() -> None:
    check_square(Grid((0.0, 1.0), (0.0, 1.0), "plane", False))
    for grid in (Grid((0.0, 1.0), (0.0, 1.0)), Grid((0.0, 1.0), (0.0, 1.0, 2.0), "plane", False)):
        with pytest.raises(UserError, match="square plane"):
            check_square(grid)
