"""The lessons' data, networks, checkpoints and training."""

import gzip
import hashlib
import json
import shutil

import pytest
import torch

import pruneviz as pv
from pruneviz import lessons
from pruneviz.lessons import train as training
from pruneviz.lessons.checkpoints import checkpoint, load_into, save
from pruneviz.lessons.data import GARMENTS, Dataset, Split, data_dir

FASHION = data_dir() / "fashion-mnist"


def tiny() -> Dataset:
    torch.manual_seed(0)
    labels = torch.arange(40) % 10
    images = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8)
    split = Split(images, labels, GARMENTS, 0.2860, 0.3530, 255.0)
    return Dataset("tiny", lambda name: split)


def test_fashion_mnist_is_complete_and_split_as_promised():
    data = lessons.fashion_mnist()
    assert [len(s) for s in (data.train, data.validation, data.test)] == [50_000, 10_000, 10_000]
    assert data.train.images.dtype == torch.uint8
    assert data.test.labels.bincount().tolist() == [1000] * 10
    # train and validation are the two ends of one file
    labels = gzip.decompress((FASHION / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    both = torch.cat([data.train.labels, data.validation.labels])
    assert both.tolist() == list(labels)


def test_a_batch_becomes_float_when_it_is_drawn():
    data = lessons.fashion_mnist()
    x, y = next(iter(data.test.batches(7)))
    raw = data.test.images[:7]
    torch.testing.assert_close(x, (raw.float() / 255 - 0.2860) / 0.3530)
    assert y.equal(data.test.labels[:7])
    train = data.train.x
    assert train.mean().abs() < 0.01
    assert abs(train.std() - 1) < 0.01


def test_digits():
    data = lessons.digits()
    assert [len(s) for s in (data.train, data.validation, data.test)] == [1197, 300, 300]
    assert data.train.x.mean().abs() < 0.001
    assert abs(data.train.x.std() - 1) < 0.001
    assert repr(data) == "Dataset 'digits': .train, .validation, .test"


def test_nothing_is_read_before_a_split_is_asked_for(tmp_path):
    data = lessons.fashion_mnist(tmp_path)  # empty
    with pytest.raises(pv.ArgumentError, match=r"train-images-idx3-ubyte\.gz is missing"):
        _ = data.train


def test_only_the_file_that_is_needed_is_read(tmp_path):
    for part in ("images-idx3", "labels-idx1"):
        shutil.copy(FASHION / f"t10k-{part}-ubyte.gz", tmp_path)
    assert len(lessons.fashion_mnist(tmp_path).test) == 10_000


def cut(raw):
    return raw[: len(raw) // 2]


def flip(raw):
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 255]) + raw[middle + 1 :]


def other(raw):
    return gzip.compress(gzip.decompress(raw)[:-1] + b"\x00\x01")


@pytest.mark.parametrize("damage", [cut, flip, other, lambda raw: b"no gzip"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    for path in FASHION.glob("t10k-*"):
        shutil.copy(path, tmp_path)
    victim = tmp_path / "t10k-labels-idx1-ubyte.gz"
    victim.write_bytes(damage(victim.read_bytes()))
    with pytest.raises(pv.ArgumentError, match="is damaged") as caught:
        _ = lessons.fashion_mnist(tmp_path).test
    assert "git checkout" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_an_archive_packed_anew_is_the_same(tmp_path):
    for path in FASHION.glob("t10k-*"):
        raw = gzip.decompress(path.read_bytes())
        (tmp_path / path.name).write_bytes(gzip.compress(raw, compresslevel=1))
    assert lessons.fashion_mnist(tmp_path).test.labels.equal(lessons.fashion_mnist().test.labels)


def test_the_data_folder_can_be_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNEVIZ_DATA", str(tmp_path))
    assert data_dir() == tmp_path
    monkeypatch.setenv("PRUNEVIZ_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(pv.ArgumentError, match="there is no such folder"):
        data_dir()


def test_batches_go_round_again_and_shuffle_by_the_global_seed():
    split = lessons.digits().test
    batches = split.batches(100, shuffle=True)
    assert len(batches) == len(list(batches)) == 3
    torch.manual_seed(1)
    first = torch.cat([y for _, y in batches])
    torch.manual_seed(1)
    assert torch.cat([y for _, y in batches]).equal(first)
    assert not first.equal(split.labels)
    assert first.sort().values.equal(split.labels.sort().values)
    with pytest.raises(pv.ArgumentError, match="`size` must be a whole number ≥ 1"):
        split.batches(0)


@pytest.mark.parametrize("name", sorted(lessons.NETWORKS))
def test_each_network_is_as_good_as_its_record(name):
    least = {"lenet-300-100": 0.89, "image-transformer": 0.87}.get(name, 0.91)
    notes = lessons.record(name)
    assert notes["test_accuracy"] >= least
    test = lessons.fashion_mnist().test[:1000]
    # a tenth of the test set: within four standard deviations of the whole
    assert pv.accuracy(lessons.load(name), test.batches(250)) > notes["test_accuracy"] - 0.04
    assert {"epochs", "seed", "seconds", "versions", "command"} <= set(notes)


def test_a_part_without_a_class_has_not_one_of_each():
    split = lessons.digits().test
    with pytest.raises(pv.ArgumentError, match="there is no image of 0, 3"):
        split[(split.labels != 0) & (split.labels != 3)].one_of_each()


def test_a_missing_checkpoint():
    with pytest.raises(pv.ArgumentError, match="there is no record"):
        lessons.record("lenet-5", seed=99)
    with pytest.raises(pv.ArgumentError, match="there is no checkpoint"):
        lessons.load("lenet-5", seed=99)
    with pytest.raises(pv.ArgumentError, match="Did you mean 'lenet-5'"):
        lessons.load("lenet5")


def test_a_damaged_checkpoint(tmp_path):
    bad = tmp_path / "x.safetensors"
    bad.write_bytes(checkpoint("lenet-5").read_bytes()[:1000])
    model = lessons.build("lenet-5")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(pv.ArgumentError, match="is damaged"):
        load_into(model, bad)
    assert all(before[k].equal(v) for k, v in model.state_dict().items())


def test_a_checkpoint_of_another_network_changes_nothing():
    model = lessons.build("lenet-300-100")
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(pv.ArgumentError, match="is of another network than LeNet300"):
        load_into(model, checkpoint("lenet-5"))
    assert all(before[k].equal(v) for k, v in model.state_dict().items())


def test_save_and_load(tmp_path):
    model = lessons.build("residual-net")
    path = checkpoint("residual-net", 3, tmp_path)
    save(model, path, {"é": 1})
    twin = lessons.build("residual-net")
    load_into(twin, path)
    assert all(a.equal(b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert json.loads(path.with_suffix(".json").read_text(encoding="utf-8")) == {"é": 1}


@pytest.mark.parametrize("name", sorted(lessons.NETWORKS))
def test_training_is_seeded_and_noted(name):
    state = torch.random.get_rng_state()
    model, notes = training.train(name, tiny(), epochs=1, progress=False)
    again, _ = training.train(name, tiny(), epochs=1, progress=False)
    torch.random.set_rng_state(state)
    assert all(a.equal(b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not model.training
    assert notes["epochs"] == 1 and 0 <= notes["test_accuracy"] <= 1
    assert notes["command"] == f"python -m pruneviz.lessons.train {name} --seed 0 --epochs 1"


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training, "fashion_mnist", tiny)
    options = ["--epochs", "1", "--out", str(tmp_path), "--no-progress"]
    assert training.main(["lenet-300-100", *options]) == 0
    assert "test accuracy" in capsys.readouterr().out
    assert {p.name for p in tmp_path.iterdir()} == {
        "lenet-300-100.safetensors",
        "lenet-300-100.json",
    }
    assert training.main(["lenet", *options]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_the_readme_records_every_file():
    text = (data_dir() / "README.md").read_text(encoding="utf-8")
    for path in FASHION.glob("*.gz"):
        raw = path.read_bytes()
        sums = [hashlib.sha256(b).hexdigest() for b in (raw, gzip.decompress(raw))]
        row = f"| `{path.name}` | {len(raw):,} | `{sums[0]}` | `{sums[1]}` |"
        assert row in text
