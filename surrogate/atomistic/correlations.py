"""Motion in time: how far atoms get, and how long they keep their velocity. Both by Fourier transforms over time."""

from __future__ import annotations

import numpy as np
import xarray as xr

from surrogate.core.types import UserError


def mean_squared_displacement(dataset: xr.Dataset) -> xr.Dataset:
    """⟨|r(t₀ + t) − r(t₀)|²⟩ in Å², over all origins t₀ and the atoms of each element.

    Its slope at long times is six times the diffusion coefficient (Einstein 1905). The mean of all pairs of times is
    taken through S(t) = Σ r² terms and an autocorrelation (Calandrini et al., "nMoldyn - Interfacing spectroscopic
    experiments, molecular dynamics simulations and models for time correlation functions" (2011)).

    Returns:
        ``msd`` (element, lag), ``lag`` in ps.

    Raises:
        UserError: for times that are not evenly spaced.
    """
    lag = _lags(dataset)
    positions = dataset["positions"].transpose("time", "atom", "xyz").values
    # Displacements from the mean place, so that large coordinates do not cancel.
    positions = positions - positions.mean(0)
    num = len(positions)
    squares = (positions**2).sum(-1)
    total = 2 * squares.sum(0)
    first = np.empty_like(squares)
    for t in range(num):
        if t:
            total = total - squares[t - 1] - squares[num - t]
        first[t] = total / (num - t)
    msd = first - 2 * _autocorrelation(positions)
    return _by_element(dataset, {"msd": (msd, "angstrom2", "mean squared displacement")}, lag)


def velocity_autocorrelation(dataset: xr.Dataset) -> xr.Dataset:
    """⟨v(t₀) · v(t₀ + t)⟩ in Å²/fs², over all origins t₀ and the atoms of each element.

    Its cosine transform is the vibrational density of states (Dickey and Paskin 1969).

    Returns:
        ``vacf`` (element, lag), ``lag`` in ps.

    Raises:
        UserError: for times that are not evenly spaced.
    """
    lag = _lags(dataset)
    velocities = dataset["velocities"].transpose("time", "atom", "xyz").values
    found = _autocorrelation(velocities)
    return _by_element(dataset, {"vacf": (found, "angstrom2 fs-2", "velocity autocorrelation")}, lag)


def _lags(dataset: xr.Dataset) -> np.ndarray:
    time = dataset["time"].values
    steps = np.diff(time)
    if len(time) < 2 or not np.allclose(steps, steps[0], rtol=1e-6, atol=0):
        raise UserError(f"correlations in time need evenly spaced times, got {len(time)} that are not")
    return time - time[0]


def _autocorrelation(values: np.ndarray) -> np.ndarray:
    """Mean over origins of the dot products, (T, A), from (T, A, 3); padded, so that nothing wraps around."""
    num = len(values)
    spectrum = np.abs(np.fft.rfft(values, 2 * num, axis=0)) ** 2
    summed = np.fft.irfft(spectrum.sum(-1), axis=0)[:num]
    return summed / np.arange(num, 0, -1)[:, None]


def _by_element(dataset: xr.Dataset, values: dict[str, tuple[np.ndarray, str, str]], lag: np.ndarray) -> xr.Dataset:
    symbols = dataset["symbol"].values.astype(str)
    elements = list(dict.fromkeys(symbols))
    return xr.Dataset(
        {
            name: (
                ("element", "lag"), np.stack([of[:, symbols == e].mean(1) for e in elements]),
                {"units": units, "long_name": text},
            )
            for name, (of, units, text) in values.items()
        },
        {"element": elements, "lag": ("lag", lag, {"units": "ps", "long_name": "time between two moments"})},
    )  # fmt: skip
