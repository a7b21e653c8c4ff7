"""What the numbers mean: variables with roles and units, the grid they live on, the time step."""

from __future__ import annotations

from dataclasses import dataclass, field
import math
from typing import Any, Literal

import numpy as np

from surrogate.core.durations import Duration

Role = Literal["prognostic", "diagnostic", "forcing", "static"]
ROLES: tuple[Role, ...] = ("prognostic", "diagnostic", "forcing", "static")


@dataclass(frozen=True)
class Variable:
    """One channel of a model: a variable, at one level where it has levels.

    ``key`` is how results name it: ``name`` or ``name@level``.
    """

    name: str
    role: Role
    units: str = "1"
    level: float | None = None
    level_units: str = ""
    standard_name: str = ""
    long_name: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"variable {self.name!r}: role {self.role!r} is not one of {', '.join(ROLES)}")

    @property
    def key(self) -> str:
        return self.name if self.level is None else f"{self.name}@{self.level:g}"


@dataclass(frozen=True)
class Grid:
    """A rectangular grid, rows first.

    Attributes:
        latitude: row coordinate, ascending, (H,): degrees north on a sphere, metres or 1 on a plane.
        longitude: column coordinate, ascending, (W,): degrees east on a sphere.
        kind: ``"sphere"`` (cell-area weights, poles) or ``"plane"`` (equal weights).
        periodic: whether the last column is the neighbour of the first.
    """

    latitude: tuple[float, ...]
    longitude: tuple[float, ...]
    kind: Literal["sphere", "plane"] = "sphere"
    periodic: bool = True

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)"""
        return len(self.latitude), len(self.longitude)

    @property
    def has_poles(self) -> bool:
        """Whether the rows reach both poles to within a row and a half, so that rows may continue across them."""
        if self.kind != "sphere" or len(self.latitude) < 2:
            return False
        reach = 1.5 * (self.latitude[1] - self.latitude[0])
        return self.latitude[0] - reach <= -90 and self.latitude[-1] + reach >= 90

    def area_weights(self) -> np.ndarray:
        """Cell areas relative to their mean, (H, W) float64.

        On a sphere the area between the half-way latitudes, sin(upper) − sin(lower), with the
        outermost rows of a global grid reaching the poles; equal on a plane.
        """
        height, width = self.shape
        if self.kind == "plane" or height == 1:
            return np.ones((height, width))
        lat = np.asarray(self.latitude, np.float64)
        middle = (lat[1:] + lat[:-1]) / 2
        bottom = lat[0] - (middle[0] - lat[0])
        top = lat[-1] + (lat[-1] - middle[-1])
        if self.has_poles:
            bottom, top = -90.0, 90.0
        edges = np.clip(np.concatenate([[bottom], middle, [top]]), -90, 90)
        area = np.diff(np.sin(np.deg2rad(edges)))
        return np.repeat((area / area.mean())[:, None], width, axis=1)


@dataclass(frozen=True)
class Spec:
    """The whole meaning of a field surrogate: channels in order, grid, time.

    Channel order within a role is the order of ``variables``. ``history`` is the number of past
    states a step sees, the present one included. ``time_step`` of zero means a map from forcings
    to diagnostics at the same time (no prognostic variable).
    """

    variables: tuple[Variable, ...]
    grid: Grid
    time_step: Duration
    calendar: str = "standard"
    history: int = 1
    attrs: dict[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        seen: set[tuple[str, str]] = set()
        for variable in self.variables:
            slot = ("static" if variable.role == "static" else "dynamic", variable.key)
            if slot in seen:
                raise ValueError(f"variable {variable.key!r} is listed twice")
            seen.add(slot)
        if not self.outputs:
            raise ValueError("no output: give at least one prognostic or diagnostic variable")

    def role(self, role: str) -> tuple[Variable, ...]:
        """The variables of one role, in order."""
        return tuple(v for v in self.variables if v.role == role)

    @property
    def outputs(self) -> tuple[Variable, ...]:
        """Prognostic, then diagnostic: the order of a model's output channels."""
        return self.role("prognostic") + self.role("diagnostic")

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(v.key for v in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; :meth:`from_dict` inverts it exactly."""
        return {
            "variables": [dict(vars(v)) for v in self.variables],
            "grid": {
                "latitude": list(self.grid.latitude), "longitude": list(self.grid.longitude),
                "kind": self.grid.kind, "periodic": self.grid.periodic,
            },
            "time_step": str(self.time_step), "calendar": self.calendar, "history": self.history,
            "attrs": self.attrs,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Spec:
        grid = values["grid"]
        return cls(
            variables=tuple(Variable(**v) for v in values["variables"]),
            grid=Grid(tuple(map(float, grid["latitude"])), tuple(map(float, grid["longitude"])),
                      grid["kind"], bool(grid["periodic"])),
            time_step=Duration.parse(values["time_step"]),
            calendar=str(values["calendar"]), history=int(values["history"]), attrs=dict(values.get("attrs", {})),
        )  # fmt: skip


def parse_variable(text: str) -> tuple[str, float | None]:
    """``"temperature@500"`` → ``("temperature", 500.0)``; ``"tas"`` → ``("tas", None)``."""
    name, _, level = text.partition("@")
    if not level:
        return name, None
    try:
        value = float(level)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"variable {text!r}: the level after @ is not a number")
    return name, value
