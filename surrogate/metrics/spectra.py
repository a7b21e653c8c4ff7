"""Power spectra whose sum over wavenumbers is the variance (Parseval).

``zonal``: along circles of latitude, averaged with the rows' areas; ``total``: by total wavenumber of spherical
harmonics on a global grid; ``radial``: on a plane, by the length of the wave vector. Wavenumber 0 holds the
square of what has no wave (the zonal mean, or the mean), the others sum to the variance about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import scipy.fft

from surrogate.core.spec import Grid
from surrogate.core.types import UserError
from surrogate.metrics.base import Sums

Kind = Literal["auto", "zonal", "total", "radial"]


def spectrum_unavailable(grid: Grid, kind: Kind = "auto") -> str:
    """Why the grid has no spectrum of this kind; empty when it has."""
    if kind == "auto":
        kind = "radial" if grid.kind == "plane" else "zonal"
    if kind == "radial" and grid.kind != "plane":
        return "a radial spectrum needs a plane, and this grid is on the sphere"
    if kind == "zonal" and not grid.periodic:
        return "a zonal spectrum needs full circles of latitude, and this grid is a region"
    if kind == "total" and not (grid.has_poles and grid.periodic):
        return "a spectrum by total wavenumber needs the whole sphere"
    return ""


class PowerSpectrum:
    """Mean power spectrum of fields, accumulated over chunks.

    Args:
        grid: of the fields.
        kind: ``auto`` is zonal on the sphere and radial on a plane.
        mask: (H, W, C) bool, True where there are data. A channel with missing cells has no spectrum (gaps
            leak power across wavenumbers): it is NaN, and ``unavailable`` says so.

    Attributes:
        wavenumber: (K,) whole numbers: waves around the circle, total wavenumber, or on a plane waves over its longer
            side (rounded to the nearest, at least 1).
        unavailable: channel → reason.

    Raises:
        UserError: when the grid has no spectrum of this kind.
    """

    def __init__(self, grid: Grid, kind: Kind = "auto", mask: np.ndarray | None = None) -> None:
        reason = spectrum_unavailable(grid, kind)
        if reason:
            raise UserError(reason)
        self.kind = kind if kind != "auto" else ("radial" if grid.kind == "plane" else "zonal")
        self.grid = grid
        self.unavailable: dict[int, str] = {}
        if mask is not None:
            for channel in np.flatnonzero(~mask.all(axis=(0, 1))):
                self.unavailable[int(channel)] = "values are missing (masked), so its spectrum would be wrong"
        width = grid.shape[1]
        if self.kind == "zonal":
            self.wavenumber = np.arange(width // 2 + 1)
        elif self.kind == "total":
            self._quadrature, exactness = _quadrature(grid)
            # products of two harmonics must be integrated exactly
            self.wavenumber = np.arange(min(exactness // 2, (width - 1) // 2) + 1)
        else:
            self._bins = _radial_bins(grid)
            self.wavenumber = np.arange(self._bins.max() + 1)

    def statistics(self, fields: np.ndarray) -> Sums:
        """Sums over samples: (N, H, W, C) → ``power`` (K, C) and ``count`` (1,)."""
        x = np.asarray(fields, np.float64)
        power = {"zonal": self._zonal, "total": self._total, "radial": self._radial}[self.kind](x)
        power[:, list(self.unavailable)] = np.nan
        return {"power": power, "count": np.array([float(len(x))])}

    def finalize(self, sums: Mapping[str, np.ndarray]) -> np.ndarray:
        """Mean power (K, C) in squared units of the data."""
        return sums["power"] / sums["count"]

    def __call__(self, fields: np.ndarray) -> np.ndarray:
        """The mean spectrum of one chunk: (N, H, W, C) → (K, C)."""
        return self.finalize(self.statistics(fields))

    def _zonal(self, x: np.ndarray) -> np.ndarray:
        width = self.grid.shape[1]
        area = self.grid.area_weights()[:, 0]
        square = np.abs(scipy.fft.rfft(x, axis=2, norm="forward")) ** 2
        square[:, :, 1 : (width + 1) // 2] *= 2  # k and −k; the mean and the Nyquist wave stand alone
        return np.einsum("nhkc,h->kc", square, area / area.sum())

    def _total(self, x: np.ndarray) -> np.ndarray:
        size = len(self.wavenumber)
        waves = scipy.fft.rfft(x, axis=2, norm="forward")
        sine = np.sin(np.deg2rad(np.asarray(self.grid.latitude)))
        power = np.zeros((size, x.shape[-1]))
        sectoral = np.ones_like(sine)
        for m in range(size):
            if m:
                sectoral = sectoral * np.sqrt((2 * m + 1) / (2 * m)) * np.sqrt(np.maximum(1 - sine**2, 0))
            basis = _legendre(sectoral, sine, m, size) * (self._quadrature / 2)
            amplitude = np.einsum("lh,nhc->lnc", basis, waves[:, :, m])
            power[m:] += (1 if m == 0 else 2) * (np.abs(amplitude) ** 2).sum(axis=1)
        return power

    def _radial(self, x: np.ndarray) -> np.ndarray:
        height, width = self.grid.shape
        # cosines where the domain is not periodic: no jump at the edges (Denis et al. 2002, MWR 130, 1812)
        y = scipy.fft.dct(x, axis=1, norm="ortho")
        y = scipy.fft.fft(y, axis=2, norm="ortho") if self.grid.periodic else scipy.fft.dct(y, axis=2, norm="ortho")
        square = (np.abs(y) ** 2).sum(axis=0) / (height * width)
        power = np.zeros((len(self.wavenumber), x.shape[-1]))
        np.add.at(power, self._bins, square)
        return power


def _radial_bins(grid: Grid) -> np.ndarray:
    """The bin of every mode, (H, W) int."""
    height, width = grid.shape

    def length(points: tuple[float, ...]) -> float:
        return (points[-1] - points[0]) * len(points) / (len(points) - 1) if len(points) > 1 else 0.0

    tall, wide = length(grid.latitude), length(grid.longitude)
    longer = max(tall, wide)
    ky = np.arange(height) / 2 / tall if tall else np.zeros(1)
    kx = np.zeros(1)
    if wide:
        kx = (np.abs(np.fft.fftfreq(width, 1 / width)) if grid.periodic else np.arange(width) / 2) / wide
    k = np.hypot(ky[:, None], kx[None, :]) * longer
    # only the mean itself belongs to bin 0, half a wave over the domain to bin 1
    return np.where(k > 0, np.maximum(np.floor(k + 0.5), 1), 0).astype(int)


def _quadrature(grid: Grid) -> tuple[np.ndarray, int]:
    """Interpolatory weights in sin(latitude), (H,) with sum 2, and the degree up to which they are exact.

    They are the Gauss weights on Gaussian latitudes and those of Fejér or Clenshaw–Curtis on even ones.
    """
    sine = np.sin(np.deg2rad(np.asarray(grid.latitude)))
    height = len(sine)
    legendre = np.polynomial.legendre.legvander(sine, 2 * height - 1)
    weights = np.linalg.solve(legendre[:, :height].T, 2.0 * (np.arange(height) == 0))
    if not np.isfinite(weights).all() or weights.min() < -1e-6:
        raise UserError("a spectrum by total wavenumber needs Gaussian or evenly spaced latitudes")
    beyond = np.abs(legendre[:, height:].T @ weights)
    gaussian = bool(beyond.max() < 1e-4)
    return weights, 2 * height - 1 if gaussian else height - 1


def _legendre(sectoral: np.ndarray, sine: np.ndarray, m: int, size: int) -> np.ndarray:
    """Associated Legendre functions of order m and degrees m..size−1, (size − m, H), of mean square 1 on the sphere."""
    rows = [sectoral]
    if size - m > 1:
        rows.append(np.sqrt(2 * m + 3) * sine * sectoral)
    for degree in range(m + 2, size):
        a = np.sqrt((4 * degree**2 - 1) / (degree**2 - m**2))
        b = np.sqrt(((degree - 1) ** 2 - m**2) / (4 * (degree - 1) ** 2 - 1))
        rows.append(a * (sine * rows[-1] - b * rows[-2]))
    return np.stack(rows)
