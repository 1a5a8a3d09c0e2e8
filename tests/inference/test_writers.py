import csv
import json

import numpy as np
import pytest

from vitnext.errors import InputError, WorkError
from vitnext.inference.writers import write_predictions
from vitnext.types import Classification, Failure

CLASSES = ("T-shirt, white", "été", 'a "quoted" one')
PREDICTIONS = [
    Classification("a.jpg", CLASSES, np.array([0.1, 0.7, 0.2], np.float32)),
    Failure("dir/b, c.jpg", "dir/b, c.jpg: the file is empty (0 bytes)"),
    Classification("array[2]", CLASSES, np.array([1e-7, 1 / 3, 2 / 3], np.float32)),
]


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("name", ["p.csv", "p.jsonl", "p.parquet", "P.CSV"])
def test_counts_and_leaves_only_the_file(tmp_path, name):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    assert write_predictions(tmp_path / name, iter(PREDICTIONS), CLASSES) == (2, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_csv_round_trip(tmp_path):
    write_predictions(tmp_path / "p.csv", PREDICTIONS, CLASSES)
    rows = read_csv(tmp_path / "p.csv")
    assert list(rows[0]) == ["source", "label", "score", "error", *(f"p_{name}" for name in CLASSES)]
    assert [row["source"] for row in rows] == [prediction.source for prediction in PREDICTIONS]
    assert (rows[0]["label"], rows[0]["score"], rows[0]["error"], rows[0]["p_été"]) == ("été", "0.7", "", "0.7")
    assert rows[1]["error"] == PREDICTIONS[1].error
    assert {rows[1][key] for key in rows[1] if key not in ("source", "error")} == {""}
    np.testing.assert_allclose([float(rows[2][f"p_{name}"]) for name in CLASSES], PREDICTIONS[2].scores, rtol=1e-6)


def test_jsonl_round_trip(tmp_path):
    write_predictions(tmp_path / "p.jsonl", PREDICTIONS, CLASSES)
    assert read_jsonl(tmp_path / "p.jsonl") == [prediction.to_dict() for prediction in PREDICTIONS]


def test_parquet_round_trip_over_several_row_groups(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr("vitnext.inference.writers.PARQUET_ROWS", 2)
    write_predictions(tmp_path / "p.parquet", PREDICTIONS, CLASSES)
    assert parquet.ParquetFile(tmp_path / "p.parquet").num_row_groups == 2
    rows = parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert list(rows[0]) == ["source", "label", "score", "error", *(f"p_{name}" for name in CLASSES)]
    assert rows[0]["label"] == "été" and rows[0]["error"] is None
    assert rows[1] == dict.fromkeys(rows[1]) | {"source": PREDICTIONS[1].source, "error": PREDICTIONS[1].error}
    assert np.array_equal(np.float32([rows[2][f"p_{name}"] for name in CLASSES]), PREDICTIONS[2].scores)


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_no_predictions_is_a_readable_file(tmp_path, extension):
    path = tmp_path / f"p.{extension}"
    if extension == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    assert write_predictions(path, [], CLASSES) == (0, 0)
    if extension == "csv":
        assert path.read_text() == 'source,label,score,error,"p_T-shirt, white",p_été,"p_a ""quoted"" one"\n'
    elif extension == "parquet":
        assert parquet.read_table(path).num_columns == 7


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
def test_file_name_that_is_not_unicode(tmp_path, extension):
    if extension == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    path, name = tmp_path / f"p.{extension}", b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    write_predictions(path, [Failure(name, f"{name}: no such file")], CLASSES)
    if extension == "jsonl":
        assert read_jsonl(path)[0]["source"] == name
    else:
        source = read_csv(path)[0]["source"] if extension == "csv" else parquet.read_table(path)["source"][0].as_py()
        assert source == r"caf\udce9.jpg"


def endless():
    raise AssertionError("a prediction was asked for before the path was known to be good")
    yield


@pytest.mark.parametrize("name", ["p.txt", "p", "missing/p.csv", "file.csv/p.csv", "folder.csv"])
def test_bad_path_is_refused_before_any_prediction(tmp_path, name):
    (tmp_path / "file.csv").touch()
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError) as error:
        write_predictions(tmp_path / name, endless(), CLASSES)
    assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"vitnext\[parquet\]"):
        write_predictions(tmp_path / "p.parquet", endless(), CLASSES)


@pytest.mark.parametrize("extension", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("reason", [KeyboardInterrupt, RuntimeError])
def test_interrupted_half_way_keeps_the_old_file_and_leaves_no_other(tmp_path, extension, reason):
    if extension == "parquet":
        pytest.importorskip("pyarrow")

    def interrupted():
        yield from PREDICTIONS
        raise reason

    path = tmp_path / f"p.{extension}"
    path.write_text("yesterday's")
    with pytest.raises(reason):
        write_predictions(path, interrupted(), CLASSES)
    assert [path.name for path in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "yesterday's"


def test_full_disk_is_one_line(tmp_path):
    def full():
        yield PREDICTIONS[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(WorkError, match=r"p.csv: cannot be written \(No space left on device\)$"):
        write_predictions(tmp_path / "p.csv", full(), CLASSES)
    assert not list(tmp_path.iterdir())
