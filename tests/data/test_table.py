"""CSV and Parquet files that list images and their labels."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from colours import mistake
from vitnext.data.dataset import open_dataset
from vitnext.data.doctor import check
from vitnext.data.table import read_table


@pytest.fixture
def folder(tmp_path):
    """Twelve different pictures, img/00.png to img/11.png."""
    random = np.random.default_rng(0)
    (tmp_path / "img").mkdir()
    for i in range(12):
        Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(tmp_path / "img" / f"{i:02}.png")
    return tmp_path


def csv(folder, *rows, name="photos.csv"):
    path = folder / name
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def rows(of):
    """A row for each of the twelve images; ``of`` gives what follows the path."""
    return [f"img/{i:02}.png,{of(i)}" for i in range(12)]


def sets(split):
    return {
        split.name(i): {c for c, yes in zip(split.classes, split.labels[i], strict=True) if yes}
        for i in range(len(split))
    }


def test_one_label_a_row(folder):
    path = csv(folder, "image,label", *rows(lambda i: "big cat" if i % 3 else "dog"))
    dataset = open_dataset(path, whole=True)
    split = dataset.splits["all"]
    assert (dataset.task, dataset.kind, dataset.name, dataset.classes) == (
        "classification", "table", "photos.csv", ("big cat", "dog"),
    )  # fmt: skip
    assert split.labels.tolist() == [1 if i % 3 == 0 else 0 for i in range(12)] and split.labels.dtype == np.int64
    assert split.image(2) == str(folder / "img/02.png") and (split.sizes > 0).all()
    assert dataset.line.startswith("photos.csv: table, one label an image (column label), 2 classes, all 12 images")
    assert {k: len(s) for k, s in open_dataset(path).splits.items()} == {"train": 8, "val": 2, "test": 2}


def test_a_tsv_is_divided_at_tabs_whatever_else_its_header_holds(folder):
    tabbed = [row.replace(",", "\t") for row in rows(lambda i: f"{'ab'[i % 2]},3")]
    table = read_table(csv(folder, "image\tlabel\tsize, cm", *tabbed, name="photos.TSV"))
    assert table.classes == ("a", "b") and table.unused == ("size, cm",)
    of_commas = csv(folder, "image,label", *rows(lambda i: "ab"[i % 2]), name="commas.tsv")
    assert read_table(of_commas).classes == ("a", "b")


def test_the_long_names_of_splits(folder):
    parts = ("training", "Training", "validation", "holdout")
    path = csv(folder, "image,label,split", *(f"img/{i:02}.png,{'ab'[i % 2]},{parts[i // 2 % 4]}" for i in range(12)))
    assert {k: len(s) for k, s in open_dataset(path).splits.items()} == {"train": 8, "val": 2, "test": 2}


def test_columns_are_found_by_name_however_written_and_in_any_order(folder):
    csv(folder, "id;Class;FileName;Split", *(f"{i};{'ab'[i % 2]};img/{i:02}.png;TRAIN" for i in range(10)),
        "10;a;./img/10.png;Valid", "11;b;img/11.png;test")  # fmt: skip
    dataset = open_dataset(folder / "photos.csv")
    assert {k: len(s) for k, s in dataset.splits.items()} == {"train": 10, "val": 1, "test": 1}
    assert dataset.splits["val"].name(0) == "img/10.png" and dataset.split_rule["rule"] == "given"
    assert "not used: id" in dataset.line and dataset.unused == ("id",)
    [found] = [found for found in check(dataset).findings if found.kind == "unused_columns"]
    assert found.message == "1 column passed over: not of images, labels or splits: id"


def test_train_with_test_gives_a_tenth_to_val_and_train_alone_is_divided(folder):
    path = csv(folder, "image,label,split", *rows(lambda i: f"{'ab'[i % 2]},{'test' if i > 9 else 'train'}"))
    assert {k: len(s) for k, s in open_dataset(path).splits.items()} == {"train": 8, "val": 2, "test": 2}
    path = csv(folder, "image,label,split", *rows(lambda i: f"{'ab'[i % 2]},train"))
    assert {k: len(s) for k, s in open_dataset(path).splits.items()} == {"train": 8, "val": 2, "test": 2}


@pytest.mark.parametrize(
    ("column", "cells", "said"),
    [
        ("label", ["cat;red dog", "red dog", ""], "column label, separated by ;"),
        ("labels", ["cat|red dog", "red dog", ""], "column labels, separated by |"),
        ("labels", ['"cat, red dog"', "red dog", ""], "column labels, separated by ,"),
        ("labels", ["red dog", "cat", ""], "column labels, separated by spaces"),
        ("Tags", ["cat", "dog", ""], "column Tags"),
    ],
)
def test_several_labels_in_a_column(folder, column, cells, said):
    path = csv(folder, f"image,{column}", *rows(lambda i: cells[i % 3]))
    dataset = open_dataset(path, whole=True)
    assert dataset.task == "multilabel" and f"multi-label ({said})" in dataset.line
    held = sets(dataset.splits["all"])
    by_spaces = {"red", "dog"} if "spaces" in said else None
    first = {"cat"} if said == "column Tags" else by_spaces or {"cat", "red dog"}
    assert held["img/00.png"] == first and held["img/02.png"] == set()
    assert dataset.splits["all"].labels.shape == (12, len(dataset.classes))


def test_a_singular_column_keeps_spaces_and_commas(folder):
    path = csv(folder, "image,label", *rows(lambda i: '"cup, red"' if i % 2 else "big cat"))
    assert open_dataset(path, whole=True).classes == ("big cat", "cup, red")


def test_columns_of_yes_and_no(folder):
    path = csv(folder, "path,dog,cat,split", *rows(lambda i: f"{i % 2},{'True' if i % 3 else '0.0'},{'train'}"))
    dataset = open_dataset(path, whole=True)
    assert dataset.classes == ("dog", "cat") and dataset.task == "multilabel"  # in the table's order
    assert sets(dataset.splits["all"])["img/01.png"] == {"dog", "cat"}
    assert sets(dataset.splits["all"])["img/06.png"] == set()
    assert "columns of 0 and 1" in dataset.line


def test_parquet(folder):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    names = [f"img/{i:02}.png" for i in range(12)]
    pq.write_table(pa.table({"file": names, "label": list(range(2)) * 6}), folder / "one.parquet")
    assert open_dataset(folder / "one.parquet", whole=True).classes == ("0", "1")
    tags = [["a", "b c"], ["b c"], [], None] * 3
    pq.write_table(pa.table({"file": names, "tags": tags}), folder / "several.parquet")
    dataset = open_dataset(folder / "several.parquet", whole=True)
    assert list(sets(dataset.splits["all"]).values())[:4] == [{"a", "b c"}, {"b c"}, set(), set()]
    (folder / "broken.parquet").write_text("text")
    assert "broken.parquet: cannot be read as Parquet" in mistake(open_dataset, folder / "broken.parquet")


def test_rows_without_files_and_files_without_rows_are_found(folder):
    path = csv(folder, "image,label", *rows(lambda i: "ab"[i % 2])[:11], "img/gone.png,a", "other/x.png,b")
    Image.new("RGB", (4, 4)).save(folder / "beside.png")  # not in a folder that the table names
    found = {found.kind: found for found in check(open_dataset(path, whole=True)).findings}
    assert found["no_file"].message == "2 rows without a file: img/gone.png, other/x.png"
    assert found["no_file"].severity == "error"
    assert found["no_row"].message == "1 image passed over: the table has no row for them: img/11.png"
    assert "unreadable" not in found


def test_a_file_that_cannot_be_read_is_no_missing_file(folder):
    path = csv(folder, "image,label", *rows(lambda i: "ab"[i % 2]))
    (folder / "img/03.png").write_text("text")
    kinds = [found.kind for found in check(open_dataset(path)).errors]
    assert kinds == ["unreadable"]


def test_findings_about_several_labels(folder):
    data = (folder / "img/00.png").read_bytes()
    (folder / "img/01.png").write_bytes(data)  # the same labels
    (folder / "img/02.png").write_bytes(data)  # other labels
    labels = ["a;b", "a;b", "a", *["b;a"] * 8, "c"]
    path = csv(folder, "image,label,split", *rows(lambda i: f"{labels[i]},{'test' if i == 11 else 'train'}"))
    found = {found.kind: found for found in check(open_dataset(path, val_fraction=0)).findings}
    assert found["empty_class"].message == "1 class without a training image (add some or remove the label): c"
    assert found["conflicting_labels"].items == ["img/02.png = img/00.png = img/01.png"]


def test_the_fingerprint_knows_each_label(folder):
    path = csv(folder, "image,label", *rows(lambda i: ["a;b", "b"][i % 2]))
    first = open_dataset(path, whole=True).fingerprint
    assert open_dataset(path, whole=True).fingerprint == first
    csv(folder, "image,label", *rows(lambda i: ["a;b", "b"][i % 2] if i else "b"))
    assert open_dataset(path, whole=True).fingerprint != first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("image,label", "has a header but no rows"),
        (
            "photo,label\nimg/00.png,a",
            "no column of image paths: call it image, file, filename or path (there are photo",
        ),
        ("image,kind\nimg/00.png,a", "column kind holds 'a' in row 1: call the column of labels label"),
        ("image\nimg/00.png", "no column of labels: call the column"),
        ("image,path,label\na,b,c", "columns image and path could both be meant"),
        ("image,label,tags\na,b,c", "columns label and tags could both be meant"),
        ("image,label,label\na,b,c", "two columns are called label"),
        ("image,label\nimg/00.png,a\nimg/01.png", "row 2 has 1 cells, the header 2"),
        ("image,label\nimg/00.png,a\nimg/01.png,", "row 2 has no label: fill it in, or call the column labels"),
        ("image,labels\nimg/00.png,\nimg/01.png,", "the column labels is empty"),
        ("image,label\nimg/00.png,a\nimg/01.png,a", "every row has the label 'a'"),
        ("image,label\nimg/00.png,a\n,b", "row 2 names no image"),
        ("image,label\nimg/00.png,a\nimg/01.png,b\nimg/./00.png,b", "rows 1 and 3 are both of img/./00.png"),
        ("image,label\nx.png,a\ny.png,b", "none of its 2 images is there; a path starts from"),
        ("image,cat,dog\nimg/00.png,1,2", "column dog holds '2' in row 1"),
        ("image,label,split\nimg/00.png,a,foo\nimg/01.png,b,train", "the split of row 1 is 'foo': write train"),
        ("image,label,split\nimg/00.png,a,val\nimg/01.png,b,test", "no row has the split train"),
        ('image,label\n"img/00.png,a\n', "is not valid CSV"),
    ],
)
def test_what_is_wrong_is_one_line_that_says_how_to_mend_it(folder, text, message):
    path = folder / "photos.csv"
    path.write_text(text)
    said = mistake(read_table, path)
    assert said.startswith(str(path)) and message in said


def test_text_that_is_not_utf_8(folder):
    (folder / "photos.csv").write_bytes("image,label\nü.png,a".encode("latin-1"))
    assert "is not text in UTF-8" in mistake(open_dataset, folder / "photos.csv")


def test_too_few_images_of_several_labels_to_divide(folder):
    path = csv(folder, "image,labels", "img/00.png,a;b", "img/01.png,b")
    assert "2 images in it, too few to split" in mistake(open_dataset, path)


def test_other_files_are_no_tables(folder):
    (folder / "photos.txt").write_text("image,label")
    assert "is a file, not a folder" in mistake(open_dataset, folder / "photos.txt")
