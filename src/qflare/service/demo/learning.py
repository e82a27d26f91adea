"""
A small network and federated averaging in numpy: the same bytes in, the same bytes out.

The demo compares the model trained through QFLARE with one trained without it, byte for byte.  So every sum has one
order: samples are shuffled by a seed of their own for each device and round, averages run over devices sorted by name
in float64, and no result depends on when an update arrived or which process made it.  Processes that train set
`SINGLE_THREAD` in their environment before numpy is loaded, so that the matrix products have one order too.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (2017), algorithm 1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import UsageError
from qflare.service.demo.data import CLASSES, FEATURES, Samples
from qflare.service.demo.extras import demo_package

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

with demo_package("numpy"):
    import numpy as np
    import numpy.typing as npt

Parameters = dict[str, npt.NDArray[np.float32]]
"""A model: float32 arrays by name, C-contiguous, in the order of `SHAPES`."""

SHAPES: Final[Mapping[str, tuple[int, ...]]] = {
    "hidden.weight": (FEATURES, 32),
    "hidden.bias": (32,),
    "output.weight": (32, CLASSES),
    "output.bias": (CLASSES,),
}
"""What a model consists of: 2,410 numbers."""

SINGLE_THREAD: Final[Mapping[str, str]] = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""Environment of every process that trains or averages: one thread, one order of sums."""

EPOCHS: Final = 4
"""Passes of a device over its samples in one round."""

_BATCH: Final = 8
_LEARNING_RATE: Final = np.float32(0.2)


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """
    What a device sends after a round: its model and how many samples made it.

    Attributes:
        parameters: The device's model after local training.
        samples: Weight in the average; 1 or more.
    """

    parameters: Parameters
    samples: int


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceRun:
    """
    The same schedule trained in one process, without QFLARE.

    Attributes:
        parameters: The final model.
        accuracies: Accuracy on the test set after each round, 0 to 1.
        digests: `parameters_digest` after each round.
    """

    parameters: Parameters
    accuracies: tuple[float, ...]
    digests: tuple[str, ...]


def initial_parameters(*, seed: int) -> Parameters:
    """Return the model that round 0 starts from: zero biases, weights scaled for ReLU (He et al., 2015)."""
    random = np.random.default_rng([seed, 0])
    return {
        name: (
            np.zeros(shape, dtype=np.float32)
            if len(shape) == 1
            else (random.standard_normal(shape) * np.sqrt(2.0 / shape[0])).astype(np.float32)
        )
        for name, shape in SHAPES.items()
    }


def train_local(
    parameters: Parameters, shard: Samples, *, device_id: str, round_index: int, seed: int, epochs: int = EPOCHS
) -> Update:
    """
    Train *parameters* on one device's samples by stochastic gradient descent.

    Equal arguments give equal bytes in every process on one machine (same numpy, `SINGLE_THREAD`).

    Args:
        parameters: The global model; not changed.
        shard: The device's samples, 1 or more.
        device_id: Chooses, with *round_index* and *seed*, the order of samples.
        round_index: Zero-based.
        seed: Of the whole run.
        epochs: Passes over the shard.

    Raises:
        UsageError: The model has other arrays than `SHAPES`, or the shard is empty.
    """
    _require_model(parameters)
    if shard.count == 0:
        message = "a device without samples cannot train: give every device at least one"
        raise UsageError(message)
    model = {name: array.copy() for name, array in parameters.items()}
    name_seed = int.from_bytes(hashlib.sha256(device_id.encode()).digest()[:8], "big")
    random = np.random.default_rng([seed, round_index, name_seed])
    for _ in range(epochs):
        order = random.permutation(shard.count)
        for first in range(0, shard.count, _BATCH):
            rows = order[first : first + _BATCH]
            _step(model, shard.features[rows], shard.labels[rows])
    return Update(parameters=model, samples=shard.count)


def federated_average(updates: Mapping[str, Update]) -> Parameters:
    """
    Average *updates* weighted by samples; the order in which they arrived does not matter.

    Args:
        updates: By device id, 1 or more.

    Returns:
        A new model: sums in float64 over devices sorted by name, then rounded once to float32.

    Raises:
        UsageError: No update, a model of the wrong form, a number that is not finite, or a weight below 1.
    """
    if not updates:
        message = "no update to average: a round needs at least one device"
        raise UsageError(message)
    for device_id, update in updates.items():
        _require_model(update.parameters)
        if update.samples < 1:
            message = f"the update of {device_id!r} claims {update.samples} samples: it must be 1 or more"
            raise UsageError(message)
        if not all(bool(np.isfinite(array).all()) for array in update.parameters.values()):
            message = f"the update of {device_id!r} holds a number that is not finite: leave it out of the round"
            raise UsageError(message)
    total = sum(update.samples for update in updates.values())
    average: Parameters = {}
    for name, shape in SHAPES.items():
        weighted = np.zeros(shape, dtype=np.float64)
        for device_id in sorted(updates):
            update = updates[device_id]
            weighted += update.parameters[name].astype(np.float64) * update.samples
        average[name] = (weighted / total).astype(np.float32)
    return average


def evaluate(parameters: Parameters, test: Samples) -> float:
    """Return the share of *test* that the model names right, 0 to 1."""
    _require_model(parameters)
    _, scores = _forward(parameters, test.features)
    return float(np.mean(np.argmax(scores, axis=1) == test.labels))


def reference_run(
    schedule: Sequence[Sequence[str]],
    shards: Mapping[str, Samples],
    test: Samples,
    *,
    seed: int,
    epochs: int = EPOCHS,
) -> ReferenceRun:
    """
    Train by *schedule* in this process, without keys, sessions, sockets or a database.

    Args:
        schedule: For each round the devices whose updates were averaged, in any order.
        shards: Samples by device id.
        test: Samples that no device has.
        seed: As in the run to compare with.
        epochs: As in the run to compare with.

    Raises:
        UsageError: A round without a device, or a device without a shard.
    """
    parameters = initial_parameters(seed=seed)
    accuracies: list[float] = []
    digests: list[str] = []
    for round_index, device_ids in enumerate(schedule):
        unknown = sorted(set(device_ids) - set(shards))
        if unknown:
            message = f"round {round_index} names devices without training data: {', '.join(unknown)}"
            raise UsageError(message)
        parameters = federated_average(
            {
                device_id: train_local(
                    parameters,
                    shards[device_id],
                    device_id=device_id,
                    round_index=round_index,
                    seed=seed,
                    epochs=epochs,
                )
                for device_id in device_ids
            }
        )
        accuracies.append(evaluate(parameters, test))
        digests.append(parameters_digest(parameters))
    return ReferenceRun(parameters=parameters, accuracies=tuple(accuracies), digests=tuple(digests))


def parameters_digest(parameters: Parameters) -> str:
    """
    Return the SHA-256 of a model, 64 hexadecimal digits: equal digests mean byte-equal models.

    Over each array in order of name: name, type and shape as text with a newline, then its bytes in C order.
    """
    digest = hashlib.sha256()
    for name in sorted(parameters):
        array = parameters[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _forward(
    parameters: Parameters, features: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the hidden layer (ReLU) and the scores of each class, one row a sample."""
    hidden = np.maximum(features @ parameters["hidden.weight"] + parameters["hidden.bias"], np.float32(0))
    return hidden, hidden @ parameters["output.weight"] + parameters["output.bias"]


def _step(model: Parameters, features: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> None:
    """Change *model* by one step of gradient descent on the cross-entropy of a batch."""
    hidden, scores = _forward(model, features)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    error = odds / odds.sum(axis=1, keepdims=True)
    error[np.arange(len(labels)), labels] -= np.float32(1)
    error /= np.float32(len(labels))
    hidden_error = (error @ model["output.weight"].T) * (hidden > 0)
    model["output.weight"] -= _LEARNING_RATE * (hidden.T @ error)
    model["output.bias"] -= _LEARNING_RATE * error.sum(axis=0)
    model["hidden.weight"] -= _LEARNING_RATE * (features.T @ hidden_error)
    model["hidden.bias"] -= _LEARNING_RATE * hidden_error.sum(axis=0)


def _require_model(parameters: Parameters) -> None:
    """Raise unless *parameters* has exactly the arrays of `SHAPES`, all float32."""
    for name, shape in SHAPES.items():
        array = parameters.get(name)
        if array is None or array.dtype != np.float32 or array.shape != shape:
            message = f"the model's array {name!r} must be float32 of shape {shape}"
            raise UsageError(message)
    if len(parameters) != len(SHAPES):
        extra = sorted(set(parameters) - set(SHAPES))
        message = f"the model has arrays that it should not have: {', '.join(extra)}"
        raise UsageError(message)
