"""A domain of a user's own in one file: the Lorenz (1996) model, with a small network of its own.

    E. N. Lorenz, 1996: Predictability: a problem partly solved. Proc. Seminar on Predictability, ECMWF, 1, 1-18.

Train it from the directory that holds this file, with nothing of the surrogate repository edited:

    python -m surrogate.train --config-dir conf +experiment=lorenz96
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from flax import nnx
import jax
import jax.numpy as jnp
import numpy as np

import surrogate as sg
from surrogate.domains.base import Evaluation

LEAD = "PT6H"  # Lorenz's unit of time stands for five days: 0.05 is six hours


@dataclass(frozen=True)
class NetConfig:
    width: int = 32


class Net(nnx.Module):
    """(B, K) normalised states → (B, K) increments, the same function at every site of the ring."""

    Config = NetConfig

    def __init__(self, config: NetConfig, *, rngs: nnx.Rngs):
        self.inner = nnx.Linear(5, config.width, rngs=rngs)
        self.outer = nnx.Linear(config.width, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        neighbours = jnp.stack([jnp.roll(x, shift, axis=-1) for shift in (2, 1, 0, -1, -2)], axis=-1)
        return self.outer(jax.nn.gelu(self.inner(neighbours)))[..., 0]


@dataclass(frozen=True)
class Data:
    """The ``data`` settings: sites of the ring, forcing, states to simulate."""

    sites: int = 8
    forcing: float = 8.0
    states: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sites < 4 or self.states < 50:
            raise ValueError("needs at least 4 sites and 50 states")


def simulate(data: Data) -> np.ndarray:
    """(states, sites) float64, six hours apart, by classical Runge-Kutta after a spin-up."""

    def tendency(x: np.ndarray) -> np.ndarray:
        return (np.roll(x, -1) - np.roll(x, 2)) * np.roll(x, 1) - x + data.forcing

    x, h, states = data.forcing + np.random.default_rng(data.seed).normal(size=data.sites), 0.01, []
    for step in range(5 * (data.states + 200)):
        a = tendency(x)
        b = tendency(x + h / 2 * a)
        c = tendency(x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + tendency(x + h * c))
        if step % 5 == 4:
            states.append(x)
    return np.array(states[200:])


class Lorenz96(sg.Domain):
    """Samples are pairs of states six hours apart; each split is a stretch of time of its own."""

    Data = Data

    def open(self) -> None:
        states = simulate(self.experiment.data)
        ends = [0, int(0.7 * len(states)), int(0.85 * len(states)), len(states)]
        self.parts = {name: states[a:b] for name, a, b in zip(("train", "valid", "test"), ends, ends[1:], strict=False)}
        train = self.parts["train"]
        self.statistics = {
            "center": np.float32(train.mean())[None],
            "scale": np.float32(train.std())[None],
            "increment": np.float32(np.diff(train, axis=0).std() / train.std())[None],
        }

    def build_model(self, rngs: nnx.Rngs) -> nnx.Module:
        return Net(self.experiment.model, rngs=rngs)

    def constants(self) -> dict[str, jax.Array]:
        return {"increment": jnp.asarray(self.statistics["increment"])}

    def num_samples(self, split: str, stage: Hashable) -> int:
        return len(self.parts[split]) - 1

    def stage(self, step: int) -> Hashable:
        return 1  # no curriculum

    def batch(self, split: str, indices: np.ndarray, stage: Hashable) -> dict[str, np.ndarray]:
        states = (self.parts[split] - self.statistics["center"]) / self.statistics["scale"]
        return {"state": states[indices].astype(np.float32), "target": states[indices + 1].astype(np.float32)}

    def loss(self, model, constants, batch, key, stage):
        error = model(batch["state"]) - (batch["target"] - batch["state"]) / constants["increment"]
        return jnp.mean(error**2), {}

    def evaluate(self, graphdef, params, split: str = "test") -> Evaluation:
        surrogate = Lorenz96Surrogate(graphdef, params, self.statistics)
        states = self.parts[split]

        def rmse(forecast: np.ndarray) -> dict[str, dict[str, dict[str, float]]]:
            return {"x": {"rmse": {LEAD: float(np.sqrt(np.mean((forecast - states[1:]) ** 2)))}}}

        climatology = np.full_like(states[1:], self.parts["train"].mean())
        return Evaluation(
            scores={split: rmse(surrogate.step(states[:-1]))},
            baselines={"persistence": rmse(states[:-1]), "climatology": rmse(climatology)},
            units={"x": "1"},
        )

    def artefact(self):
        return {"time_step": LEAD}, self.statistics

    def golden(self, graphdef, params) -> dict[str, np.ndarray]:
        state = self.batch("train", np.arange(2), 1)["state"]
        return {"state": state, "outputs": np.asarray(nnx.merge(graphdef, params)(state))}

    @classmethod
    def restore(cls, manifest, arrays, fill):
        graphdef, params = fill(Net(NetConfig(**manifest["model"]["settings"]), rngs=nnx.Rngs(0)))
        return Lorenz96Surrogate(graphdef, params, arrays)


class Lorenz96Surrogate:
    """What ``surrogate.fit`` and ``surrogate.load`` give back for this domain."""

    def __init__(self, graphdef, params, statistics: dict[str, np.ndarray]):
        self.model, self.statistics = nnx.merge(graphdef, params), statistics

    def step(self, states: np.ndarray) -> np.ndarray:
        """States (B, K) six hours later."""
        center, scale, increment = (self.statistics[k] for k in ("center", "scale", "increment"))
        normal = ((states - center) / scale).astype(np.float32)
        return (normal + np.asarray(self.model(normal)) * increment) * scale + center
