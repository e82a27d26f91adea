"""
The digits data of scikit-learn, split unevenly among devices.

Only `load_digits_data` needs scikit-learn (its import takes seconds): the main process splits the data once and writes
each device's shard as an ``.npz`` file, which `read_shard` opens with numpy alone.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qflare.errors import ConfigError, DecodeError, UsageError
from qflare.service.demo.extras import demo_package

if TYPE_CHECKING:
    from pathlib import Path

with demo_package("numpy"):
    import numpy as np
    import numpy.typing as npt

FEATURES: Final = 64
"""Pixels of an image, 8 × 8."""

CLASSES: Final = 10
"""Digits to tell apart."""

DEVICES_MAX: Final = 200
"""Devices the training data is enough for, each with `SAMPLES_MIN` samples or more."""

SAMPLES_MIN: Final = 3
"""Samples that every device has at least."""

_TEST_SAMPLES: Final = 360
# Small values make shards uneven in size and in digits; 0.5 leaves most devices with three to five digits.
_CONCENTRATION: Final = 0.5
_PIXEL_MAX: Final = 16.0


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """
    Images and what they show.

    Attributes:
        features: ``n × 64`` float32 from 0 to 1, row-major, one image a row.
        labels: ``n`` int64, the digits 0 to 9.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    @property
    def count(self) -> int:
        """Return the number of images."""
        return int(self.labels.shape[0])


@dataclass(frozen=True, slots=True)
class DigitsSplit:
    """
    The whole data set, dealt out.

    Attributes:
        shards: Training samples by device id, in the order of the devices given; disjoint.
        test: Held-out samples that no device has; the same for every seed and number of devices.
    """

    shards: dict[str, Samples]
    test: Samples


def load_digits_data() -> Samples:
    """
    Load the 1,797 images that ship inside scikit-learn; nothing is downloaded.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    with demo_package("scikit-learn"):
        from sklearn.datasets import load_digits

    features, labels = load_digits(return_X_y=True)
    return Samples(
        features=np.ascontiguousarray(features / _PIXEL_MAX, dtype=np.float32),
        labels=np.ascontiguousarray(labels, dtype=np.int64),
    )


def split_digits(data: Samples, device_ids: tuple[str, ...], *, seed: int) -> DigitsSplit:
    """
    Deal *data* out among devices, unevenly in size and in digits, the same for the same arguments.

    Each digit's samples are shared out by a Dirichlet draw (concentration 0.5); then the largest shards give to
    those that have fewer than `SAMPLES_MIN`.

    Args:
        data: All samples; the last 360 of a fixed shuffle become the test set.
        device_ids: 1 to `DEVICES_MAX` distinct names.
        seed: Chooses the split, not the test set.

    Raises:
        UsageError: No device, too many, or a name twice.
    """
    if not 1 <= len(device_ids) <= DEVICES_MAX:
        message = f"the digits data is enough for 1 to {DEVICES_MAX} devices, not {len(device_ids)}"
        raise UsageError(message)
    if len(set(device_ids)) != len(device_ids):
        message = "two devices have the same name: give each its own"
        raise UsageError(message)
    # WHY: a fixed shuffle, because neighbouring images of the data set were written by the same hand.
    order = np.random.default_rng(0).permutation(data.count)
    training, test = order[:-_TEST_SAMPLES], order[-_TEST_SAMPLES:]
    dealt = _deal(training, data.labels, len(device_ids), seed=seed)
    shards = {device_id: _take(data, rows) for device_id, rows in zip(device_ids, dealt, strict=True)}
    return DigitsSplit(shards=shards, test=_take(data, test))


def write_shard(path: Path, shard: Samples) -> None:
    """
    Write one device's samples to *path* (``.npz``, no pickle).

    Raises:
        ConfigError: The folder is missing or cannot be written.
    """
    try:
        with path.open("wb") as file:
            np.savez(file, features=shard.features, labels=shard.labels)
    except OSError as error:
        message = f"cannot write the training data to {path}: {error.strerror}; choose another --folder"
        raise ConfigError(message) from None


def read_shard(path: Path) -> Samples:
    """
    Read what `write_shard` wrote; needs numpy alone.

    Raises:
        ConfigError: The file cannot be read.
        DecodeError: It is not a shard, or arrays have the wrong type or shape.
    """
    try:
        # WHY: opened here, because numpy leaves its own file open when the content is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            features, labels = arrays["features"], arrays["labels"]
    except OSError as error:
        message = f"cannot read the training data {path}: {error.strerror or 'damaged'}; start the demo anew"
        raise ConfigError(message) from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        message = f"{path} is not a shard of training data: start the demo anew"
        raise DecodeError(message) from None
    well_formed = (
        features.dtype == np.float32
        and labels.dtype == np.int64
        and labels.ndim == 1
        and features.shape == (labels.shape[0], FEATURES)
    )
    if not well_formed:
        message = f"{path} holds arrays of the wrong type or shape: start the demo anew"
        raise DecodeError(message)
    return Samples(features=features, labels=labels)


def _deal(
    rows: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], devices: int, *, seed: int
) -> list[npt.NDArray[np.int64]]:
    """Return for each device the rows it gets: disjoint, together all of *rows*, none fewer than `SAMPLES_MIN`."""
    random = np.random.default_rng([seed, devices])
    hands: list[list[int]] = [[] for _ in range(devices)]
    for digit in range(CLASSES):
        of_digit = rows[labels[rows] == digit]
        shares = random.dirichlet(np.full(devices, _CONCENTRATION))
        cuts = np.floor(np.cumsum(shares)[:-1] * len(of_digit)).astype(np.int64)
        for hand, part in zip(hands, np.split(of_digit, cuts), strict=True):
            hand.extend(int(row) for row in part)
    for hand in hands:
        while len(hand) < SAMPLES_MIN:
            largest = max(hands, key=len)  # the first of equals, so that the split is the same on every run
            hand.append(largest.pop())
    return [np.array(hand, dtype=np.int64) for hand in hands]


def _take(data: Samples, rows: npt.NDArray[np.int64]) -> Samples:
    """Return copies of *rows* of *data*."""
    return Samples(features=np.ascontiguousarray(data.features[rows]), labels=np.ascontiguousarray(data.labels[rows]))
