"""Federated training of the demo: one schedule, one model, whoever computes it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qflare.errors import ConfigError, DecodeError, UsageError
from qflare.service.demo import data, learning

if TYPE_CHECKING:
    from pathlib import Path

SEED = 7
DEVICES = tuple(f"device-{number:02d}" for number in range(10))

TRAIN_IN_PROCESS = """
import sys
from pathlib import Path
from qflare.service.demo import data, learning
shard = data.read_shard(Path(sys.argv[1]))
parameters = learning.initial_parameters(seed=7)
for round_index in range(3):
    parameters = learning.train_local(
        parameters, shard, device_id="device-03", round_index=round_index, seed=7).parameters
assert "sklearn" not in sys.modules
print(learning.parameters_digest(parameters))
"""


@pytest.fixture(scope="module")
def digits() -> data.Samples:
    """Return the whole data set."""
    return data.load_digits_data()


@pytest.fixture(scope="module")
def split(digits: data.Samples) -> data.DigitsSplit:
    """Return the data set dealt out among ten devices."""
    return data.split_digits(digits, DEVICES, seed=SEED)


@pytest.mark.parametrize("count", [1, 2, 10, 199, 200])
def test_split_deals_every_training_sample_once(digits: data.Samples, count: int) -> None:
    """Shards are disjoint, complete, never smaller than the least size, and leave the same test set alone."""
    names = tuple(f"d{number}" for number in range(count))
    dealt = data.split_digits(digits, names, seed=SEED)
    assert names == tuple(dealt.shards)
    assert min(shard.count for shard in dealt.shards.values()) >= data.SAMPLES_MIN
    rows = [row.tobytes() for shard in dealt.shards.values() for row in shard.features]
    rows += [row.tobytes() for row in dealt.test.features]
    assert sorted(row.tobytes() for row in digits.features) == sorted(rows)
    assert data.split_digits(digits, ("x",), seed=1).test.features.tobytes() == dealt.test.features.tobytes()


def test_split_is_uneven_and_repeatable(digits: data.Samples, split: data.DigitsSplit) -> None:
    """Equal seeds give equal shards, another seed other ones, and sizes differ widely between devices."""
    again = data.split_digits(digits, DEVICES, seed=SEED)
    other = data.split_digits(digits, DEVICES, seed=SEED + 1)
    sizes = sorted(shard.count for shard in split.shards.values())
    assert sizes[-1] > 2 * sizes[0]
    assert all(split.shards[name].labels.tobytes() == again.shards[name].labels.tobytes() for name in DEVICES)
    assert any(split.shards[name].labels.tobytes() != other.shards[name].labels.tobytes() for name in DEVICES)


@pytest.mark.parametrize("names", [(), ("a", "a"), tuple(str(number) for number in range(201))])
def test_split_refuses_impossible_devices(digits: data.Samples, names: tuple[str, ...]) -> None:
    """No device, a name twice or more devices than samples allow is a usage error before any work."""
    with pytest.raises(UsageError):
        data.split_digits(digits, names, seed=SEED)


def test_shard_survives_its_file(split: data.DigitsSplit, tmp_path: Path) -> None:
    """A shard read back has the bytes that were written."""
    shard = split.shards["device-03"]
    data.write_shard(tmp_path / "shard.npz", shard)
    read = data.read_shard(tmp_path / "shard.npz")
    assert (shard.features.tobytes(), shard.labels.tobytes()) == (read.features.tobytes(), read.labels.tobytes())


def test_shard_file_that_is_damaged_is_refused(split: data.DigitsSplit, tmp_path: Path) -> None:
    """A missing, truncated, foreign or misshapen file is an error that names the file and the remedy."""
    path = tmp_path / "shard.npz"
    with pytest.raises(ConfigError, match=r"shard\.npz"):
        data.read_shard(path)
    data.write_shard(path, split.shards["device-03"])
    whole = path.read_bytes()
    for damaged in (b"", b"not an archive", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DecodeError, match=r"shard\.npz"):
            data.read_shard(path)
    with path.open("wb") as file:
        np.savez(file, features=np.zeros((2, 3), dtype=np.float32), labels=np.zeros(2, dtype=np.int64))
    with pytest.raises(DecodeError, match="shape"):
        data.read_shard(path)
    with pytest.raises(ConfigError, match="cannot write"):
        data.write_shard(tmp_path / "missing" / "shard.npz", split.shards["device-03"])


def test_training_gives_the_same_bytes_in_another_process(split: data.DigitsSplit, tmp_path: Path) -> None:
    """A device process with numpy alone computes bit for bit what this process computes."""
    path = tmp_path / "shard.npz"
    data.write_shard(path, split.shards["device-03"])
    parameters = learning.initial_parameters(seed=SEED)
    for round_index in range(3):
        parameters = learning.train_local(
            parameters, split.shards["device-03"], device_id="device-03", round_index=round_index, seed=SEED
        ).parameters
    environment = os.environ | dict(learning.SINGLE_THREAD)
    environment["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    run = subprocess.run(
        [sys.executable, "-c", TRAIN_IN_PROCESS, str(path)],
        check=True, capture_output=True, text=True, env=environment, timeout=60,
    )  # fmt: skip
    assert learning.parameters_digest(parameters) == run.stdout.strip()


def test_training_does_not_depend_on_where_arrays_lie(split: data.DigitsSplit) -> None:
    """Samples at another alignment in memory give the same model, byte for byte."""
    shard = split.shards["device-03"]
    start = learning.initial_parameters(seed=SEED)
    expected = learning.train_local(start, shard, device_id="d", round_index=0, seed=SEED)
    for offset in (4, 8, 20, 60):
        buffer = np.zeros(shard.features.nbytes + 128, dtype=np.uint8)
        moved = buffer[offset : offset + shard.features.nbytes].view(np.float32).reshape(shard.features.shape)
        moved[:] = shard.features
        model = {}
        for name, array in start.items():
            room = np.zeros(array.nbytes + 128, dtype=np.uint8)
            model[name] = room[offset : offset + array.nbytes].view(np.float32).reshape(array.shape)
            model[name][:] = array
        actual = learning.train_local(model, data.Samples(moved, shard.labels), device_id="d", round_index=0, seed=SEED)
        assert learning.parameters_digest(expected.parameters) == learning.parameters_digest(actual.parameters)


def test_training_leaves_the_global_model_alone(split: data.DigitsSplit) -> None:
    """Local training changes a copy, and differs by device and round."""
    start = learning.initial_parameters(seed=SEED)
    before = learning.parameters_digest(start)
    shard = split.shards["device-00"]
    digests = {
        learning.parameters_digest(
            learning.train_local(start, shard, device_id=name, round_index=index, seed=SEED).parameters
        )
        for name in ("device-00", "device-01")
        for index in (0, 1)
    }
    assert (before, 4) == (learning.parameters_digest(start), len(digests))


def test_average_does_not_depend_on_arrival(split: data.DigitsSplit) -> None:
    """Updates that arrive in any order average to the same bytes, near the exact weighted mean."""
    start = learning.initial_parameters(seed=SEED)
    updates = {
        name: learning.train_local(start, shard, device_id=name, round_index=0, seed=SEED)
        for name, shard in split.shards.items()
    }
    expected = learning.federated_average(updates)
    shuffler = np.random.default_rng(1)
    for _ in range(20):
        arrived = [DEVICES[index] for index in shuffler.permutation(len(DEVICES))]
        actual = learning.federated_average({name: updates[name] for name in arrived})
        assert learning.parameters_digest(expected) == learning.parameters_digest(actual)
    weights = [update.samples for update in updates.values()]
    for name, array in expected.items():
        mean = np.average([u.parameters[name].astype(np.float64) for u in updates.values()], axis=0, weights=weights)
        np.testing.assert_allclose(array, mean, rtol=1e-6, atol=1e-7)


def test_average_refuses_what_would_spoil_the_model() -> None:
    """An empty round, a wrong shape or type, a missing or extra array, no weight and NaN are usage errors."""
    good = learning.initial_parameters(seed=SEED)
    spoiled = {
        "shape": good | {"hidden.bias": np.zeros(31, dtype=np.float32)},
        "type": good | {"hidden.bias": np.zeros(32, dtype=np.float64)},
        "missing": {name: array for name, array in good.items() if name != "output.bias"},
        "extra": good | {"more": np.zeros(1, dtype=np.float32)},
        "not finite": good | {"hidden.bias": np.full(32, np.nan, dtype=np.float32)},
    }
    for parameters in spoiled.values():
        with pytest.raises(UsageError):
            learning.federated_average({"a": learning.Update(good, 1), "b": learning.Update(parameters, 1)})
    with pytest.raises(UsageError):
        learning.federated_average({"a": learning.Update(good, 0)})
    with pytest.raises(UsageError):
        learning.federated_average({})


def test_training_refuses_an_empty_shard() -> None:
    """A device without samples is told so."""
    empty = data.Samples(np.zeros((0, data.FEATURES), dtype=np.float32), np.zeros(0, dtype=np.int64))
    with pytest.raises(UsageError):
        learning.train_local(learning.initial_parameters(seed=SEED), empty, device_id="d", round_index=0, seed=SEED)


def test_reference_run_learns_the_digits(split: data.DigitsSplit) -> None:
    """Twenty rounds with a device asleep and another revoked name more than nine of ten test images right."""
    schedule = [
        tuple(
            name
            for name in DEVICES
            if not (name == "device-04" and 5 <= index < 12) and not (name == "device-07" and index >= 10)
        )
        for index in range(20)
    ]
    run = learning.reference_run(schedule, split.shards, split.test, seed=SEED)
    assert run.accuracies[-1] > 0.9
    assert run.accuracies[-1] == learning.evaluate(run.parameters, split.test)
    assert run.digests[-1] == learning.parameters_digest(run.parameters)
    backwards = [tuple(reversed(round_)) for round_ in schedule[:3]]
    assert run.digests[:3] == learning.reference_run(backwards, split.shards, split.test, seed=SEED).digests
    fewer = [schedule[0], schedule[1][:-1]]
    assert run.digests[1] != learning.reference_run(fewer, split.shards, split.test, seed=SEED).digests[1]


def test_reference_run_refuses_an_unknown_device(split: data.DigitsSplit) -> None:
    """A schedule that names a device without data says which."""
    with pytest.raises(UsageError, match="nobody"):
        learning.reference_run([("nobody",)], split.shards, split.test, seed=SEED)


def test_digest_tells_names_types_and_shapes_apart() -> None:
    """Models with the same bytes under another name, type or shape have another digest."""
    zeros = np.zeros(4, dtype=np.float32)
    others = [{"b": zeros}, {"a": zeros.reshape(2, 2)}, {"a": zeros.astype(np.int32)}]
    models: list[learning.Parameters] = [{"a": zeros}, *others]  # type: ignore[list-item]
    assert len(models) == len({learning.parameters_digest(model) for model in models})
