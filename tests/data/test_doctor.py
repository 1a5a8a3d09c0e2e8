import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vitnext.data import survey
from vitnext.data.dataset import open_dataset
from vitnext.data.doctor import EXAMPLES, check, findings
from vitnext.data.survey import look


def images(root, seed=0, **counts):
    """Class folders with that many different pictures."""
    rng = np.random.default_rng([seed, *root.name.encode()])
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i:03}.png")
    return root


@pytest.fixture
def data(tmp_path):
    """A sound data set: train 6 + 6, val 2 + 2, test 2 + 2."""
    images(tmp_path / "train", a=6, b=6)
    images(tmp_path / "val", a=2, b=2)
    images(tmp_path / "test", a=2, b=2)
    return tmp_path


def copy(data, source, target):
    (data / target).write_bytes((data / source).read_bytes())


def one(report, kind):
    assert [finding.kind for finding in report.findings] == [kind]
    finding = report.findings[0]
    assert "\n" not in finding.message
    return finding


def test_nothing_wrong(data):
    report = check(open_dataset(data))
    assert report.findings == [] and report.errors == [] and report.warnings == [] and report.unreadable == {}


def test_nothing_wrong_with_digits():
    assert check(open_dataset("digits")).findings == []


def test_unreadable_files(data):
    (data / "train/a/001.png").write_text("text")
    (data / "train/b/002.png").write_bytes(b"")
    (data / "test/b/001.png").write_bytes((data / "test/b/001.png").read_bytes()[:60])
    (data / "train/a/link.png").symlink_to(data / "nowhere")
    dataset = open_dataset(data)
    report = check(dataset)
    finding = one(report, "unreadable")
    assert finding.severity == "error" and finding in report.errors
    assert finding.message.startswith("4 images cannot be read: ") and finding.message.endswith(", ...")
    assert len(finding.items) == 4 and str(data / "train/b/002.png") in " ".join(finding.items)
    names = {s: [dataset.splits[s].name(i) for i in indices] for s, indices in report.unreadable.items()}
    assert names == {
        "train": ["train/a/001.png", "train/a/link.png", "train/b/002.png"],
        "test": ["test/b/001.png"],
    }


def test_two_unreadable_files_with_the_same_contents_are_not_duplicates(data):
    for name in ("train/a/000.png", "val/a/000.png"):
        (data / name).write_bytes(b"")
    assert one(check(open_dataset(data)), "unreadable").message.startswith("2 images")


def test_a_file_that_vanishes_meanwhile(data):
    dataset = open_dataset(data)
    (data / "val/a/000.png").unlink()
    report = check(dataset)
    assert "no such file" in one(report, "unreadable").message and report.unreadable == {"val": [0]}


def test_a_file_that_vanishes_after_it_was_decoded(data, monkeypatch):
    dataset = open_dataset(data)
    gone = data / "val/a/000.png"
    opened = survey.open_image

    def and_then_gone(path):
        pixels = opened(path)
        gone.unlink(missing_ok=True)
        return pixels

    monkeypatch.setattr(survey, "open_image", lambda path: and_then_gone(path) if path == str(gone) else opened(path))
    assert one(check(dataset), "unreadable").items == [f"{gone}: No such file or directory"]


def test_without_a_train_split(data):
    dataset = open_dataset(data)
    only = replace(dataset, splits={"test": dataset.splits["test"]})
    assert [f.kind for f in check(only).findings] == ["empty_class"]


def test_an_empty_class(data):
    (data / "train/c").mkdir()
    finding = one(check(open_dataset(data)), "empty_class")
    assert finding.severity == "error" and finding.items == ["c"]
    assert finding.message == "1 class without a training image (add some or remove the folder): c"


def test_a_class_missing_from_a_split(data):
    for i in range(2):
        (data / f"val/b/00{i}.png").unlink()
    finding = one(check(open_dataset(data)), "missing_class")
    assert (finding.severity, finding.message) == ("warning", "1 class without an image in val: b")


def test_the_same_image_in_two_splits(data):
    copy(data, "train/a/003.png", "val/a/000.png")
    copy(data, "train/b/000.png", "test/b/001.png")
    finding = one(check(open_dataset(data)), "duplicate_across_splits")
    assert finding.severity == "warning"
    assert finding.items == ["train/a/003.png = val/a/000.png", "train/b/000.png = test/b/001.png"]
    assert finding.message.startswith("2 images in more than one split, so scores will be too good: train/a/003.png =")


def test_the_same_image_with_two_labels(data):
    copy(data, "train/a/003.png", "train/b/000.png")
    report = check(open_dataset(data))
    assert [f.kind for f in report.findings] == ["conflicting_labels"]
    assert report.findings[0].items == ["train/a/003.png = train/b/000.png"]
    copy(data, "train/a/003.png", "train/a/again.png")
    assert [f.kind for f in check(open_dataset(data)).findings] == ["conflicting_labels", "duplicate_within_split"]


def test_the_same_image_in_two_splits_with_two_labels(data):
    copy(data, "train/a/003.png", "test/b/000.png")
    kinds = [f.kind for f in check(open_dataset(data)).findings]
    assert kinds == ["duplicate_across_splits", "conflicting_labels"]


def test_many_copies_stay_one_short_line(data):
    for i in range(1, 6):
        copy(data, "train/a/000.png", f"train/a/00{i}.png")
    finding = one(check(open_dataset(data)), "duplicate_within_split")
    assert finding.message == (
        "1 image more than once under one label of a split: "
        "train/a/000.png = train/a/001.png = train/a/002.png = ... (6 in all)"
    )


def test_the_message_shows_three_and_the_report_has_all(data):
    for i in range(5):
        copy(data, f"train/a/00{i}.png", f"test/a/x{i}.png")
    finding = one(check(open_dataset(data)), "duplicate_across_splits")
    assert len(finding.items) == 5
    assert finding.message.count(" = ") == EXAMPLES and finding.message.endswith(", ...")


def test_the_same_pixels_in_arrays():
    dataset = open_dataset("digits")
    train, test = dataset.splits["train"], dataset.splits["test"]
    test.arrays[4] = train.arrays[9]
    items = check(dataset).findings[0].items
    assert items == [f"{train.name(9)} = {test.name(4)}"]


def test_extreme_imbalance(tmp_path):
    images(tmp_path / "train", a=5, b=250)
    images(tmp_path / "val", a=1, b=1)
    finding = one(check(open_dataset(tmp_path)), "imbalance")
    assert finding.message == "the largest class has 50 times the images of the smallest: b (250), a (5)"
    (tmp_path / "train/b/000.png").unlink()
    assert check(open_dataset(tmp_path)).findings == []


def test_very_few_images(data):
    for i in range(2):
        (data / f"train/b/00{i}.png").unlink()
    finding = one(check(open_dataset(data)), "few_images")
    assert finding.message == "1 class with fewer than 5 training images: b (4)"


def test_ignored_files(data):
    for name in ("1.txt", "2.heic", "3.txt", "4.txt"):
        (data / "train/a" / name).touch()
    finding = one(check(open_dataset(data)), "ignored_files")
    assert finding.severity == "warning"
    assert finding.message.startswith("4 files passed over: not an image file; HEIC is not read: convert it to JPEG")
    assert finding.message.endswith("train/a/3.txt, ...")


def test_loose_images_and_unused_folders_are_named(data):
    (data / "extra").mkdir()
    for name in ("train/1.png", "test/2.png"):
        (data / name).touch()
    assert [(finding.severity, finding.kind, finding.message) for finding in check(open_dataset(data)).findings] == [
        ("warning", "loose_images", "2 images passed over: not in a class folder: test/2.png, train/1.png"),
        ("warning", "unused_folders", "1 folder passed over: neither train, val nor test: extra"),
    ]


def test_classes_that_hold_folders_alone_are_remarked(tmp_path):
    images(tmp_path / "animals", cat=7, dog=7)
    images(tmp_path / "things", car=7)
    found = one(check(open_dataset(tmp_path)), "nested_folders")
    assert found.severity == "warning" and found.message == (
        "no image lies in a class folder itself, but in 3 folders below (classes are animals, things; give one of "
        "these folders if those below it are meant): animals/cat, animals/dog, things/car"
    )


def test_classes_that_differ_in_case_or_spaces_are_remarked(tmp_path):
    images(tmp_path, **{"Hat": 7, "hat ": 7, "rain_coat": 7, "Rain coat": 7, "cap": 7})
    found = one(check(open_dataset(tmp_path)), "alike_classes")
    assert (found.severity, found.items) == ("warning", ["Hat = hat ", "Rain coat = rain_coat"])


def test_small_and_empty_classes_of_one_tree_hide_nothing(tmp_path):
    images(tmp_path, a=10, b=10, c=2, d=0)
    (tmp_path / "a" / "000.png").write_text("text")
    kinds = [(f.severity, f.kind, f.items) for f in check(open_dataset(tmp_path)).findings]
    assert ("error", "empty_class", ["d"]) in kinds and ("warning", "few_images", ["c (2)"]) in kinds
    assert [items for _, kind, items in kinds if kind == "missing_class"] == [["c"], ["c"]]  # in val and in test
    assert "unreadable" in [kind for _, kind, _ in kinds]


def test_errors_come_first(data):
    (data / "train/a/1.txt").touch()
    (data / "train/a/000.png").write_text("text")
    assert [f.severity for f in check(open_dataset(data)).findings] == ["error", "warning"]


def test_without_decoding_no_file_is_opened(data, monkeypatch):
    (data / "train/a/000.png").write_text("text")
    (data / "train/c").mkdir()
    dataset = open_dataset(data)
    monkeypatch.setattr("builtins.open", None)
    report = check(dataset, decode=False)
    monkeypatch.undo()
    one(report, "empty_class")


def test_progress_and_chunks(data, monkeypatch):
    monkeypatch.setattr("vitnext.data.survey.CHUNK", 5)
    copy(data, "train/a/003.png", "test/b/000.png")
    calls = []
    dataset = open_dataset(data)
    report = findings(dataset, look(dataset, progress=lambda done, total: calls.append((done, total))))
    assert calls == [(5, 20), (10, 20), (12, 20), (16, 20), (20, 20)]
    assert report.findings[0].items == ["train/a/003.png = test/b/000.png"]


def test_to_dict_is_plain_json(data):
    (data / "train/a/000.png").write_text("text")
    values = json.loads(json.dumps(check(open_dataset(data)).to_dict()))
    assert values["unreadable"] == {"train": [0]}
    assert values["findings"][0]["kind"] == "unreadable" and set(values["findings"][0]) == {
        "severity", "kind", "message", "items",
    }  # fmt: skip
