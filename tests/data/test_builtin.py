import gzip
import hashlib
import io
import urllib.error

import numpy as np
import pytest

from vitnext.data import builtin
from vitnext.errors import InputError, WorkError


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def contents(seed=0):
    """The four files' unpacked contents, small: 20 and 10 images."""
    rng = np.random.default_rng(seed)
    files = {}
    for prefix, n in (("train", 20), ("t10k", 10)):
        files[f"{prefix}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (n, 28, 28)))
        files[f"{prefix}-labels-idx1-ubyte"] = idx(np.arange(n) % 10)
    return files


def write(folder, files, packed=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No copy on the machine, an empty cache, no network, and the small files' hashes. Gives the cache's folder."""

    def offline(url, timeout):
        raise urllib.error.URLError("Name or service not known")

    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents().items()}
    monkeypatch.setattr(builtin, "SYSTEM_FOLDER", tmp_path / "system")
    monkeypatch.setattr(builtin, "FILES", hashes)
    monkeypatch.setattr("urllib.request.urlopen", offline)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("VITNEXT_FASHION_MNIST", raising=False)
    return tmp_path / "cache" / "vitnext" / "fashion-mnist"


def first_pixel(splits):
    return int(splits["train"][0][0, 0, 0])


def test_digits_are_whole_and_scaled_to_255():
    images, labels = builtin.digits()
    assert images.shape == (1797, 8, 8) and images.dtype == np.uint8
    assert labels.shape == (1797,) and labels.dtype == np.int64
    assert sorted(np.unique(images)) == [round(v * 255 / 16) for v in range(17)]


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist_from_a_folder(tmp_path, nowhere, packed):
    splits = builtin.fashion_mnist(write(tmp_path / "mine", contents(), packed))
    images, labels = splits["train"]
    assert images.shape == (20, 28, 28) and images.dtype == np.uint8 and images.flags.writeable
    assert labels.tolist() == [*range(10), *range(10)] and labels.dtype == np.int64
    assert splits["test"][0].shape == (10, 28, 28)
    assert images.tobytes() == contents()["train-images-idx3-ubyte"][16:]


def test_where_it_is_looked_for_and_in_which_order(tmp_path, nowhere, monkeypatch):
    copies = {seed: contents(seed) for seed in range(4)}
    pixel = {seed: copies[seed]["train-images-idx3-ubyte"][16] for seed in copies}
    assert len(set(pixel.values())) == 4
    write(nowhere, copies[3])
    assert first_pixel(builtin.fashion_mnist()) == pixel[3]
    write(tmp_path / "system", copies[2])
    assert first_pixel(builtin.fashion_mnist()) == pixel[2]
    monkeypatch.setenv("VITNEXT_FASHION_MNIST", str(write(tmp_path / "named", copies[1])))
    assert first_pixel(builtin.fashion_mnist()) == pixel[1]
    assert first_pixel(builtin.fashion_mnist(write(tmp_path / "given", copies[0]))) == pixel[0]


def test_a_folder_that_lacks_files_is_not_passed_over(tmp_path, nowhere, monkeypatch):
    write(tmp_path / "system", contents())
    with pytest.raises(InputError, match=r"no train-images-idx3-ubyte.gz in it; give a folder with the four"):
        builtin.fashion_mnist(tmp_path / "missing")
    monkeypatch.setenv("VITNEXT_FASHION_MNIST", str(tmp_path / "missing"))
    with pytest.raises(InputError, match="missing"):
        builtin.fashion_mnist()


def test_no_copy_at_all_is_one_line_with_the_remedies(nowhere):
    with pytest.raises(InputError) as caught:
        builtin.fashion_mnist()
    message = str(caught.value)
    assert "\n" not in message and "Name or service not known" in message
    assert "apt install dataset-fashion-mnist" in message and str(nowhere) in message


def serve(monkeypatch, answers):
    """Answer downloads from {name: packed bytes}; gives the list of URLs asked for."""
    asked = []

    def urlopen(url, timeout):
        asked.append(url)
        answer = answers(url)
        if isinstance(answer, Exception):
            raise answer
        return io.BytesIO(answer)

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def file_of(url):
    return url.rpartition("/")[2].removesuffix(".gz")


def test_download_into_the_cache(nowhere, monkeypatch):
    asked = serve(monkeypatch, lambda url: gzip.compress(contents()[file_of(url)]))
    assert len(builtin.fashion_mnist()["train"][0]) == 20
    assert len(asked) == 4 and all(url.startswith("https://") for url in asked)
    assert sorted(p.name for p in nowhere.iterdir()) == sorted(f"{name}.gz" for name in contents())
    builtin.fashion_mnist()
    assert len(asked) == 4  # the second time from the cache
    next(nowhere.iterdir()).unlink()
    builtin.fashion_mnist()
    assert len(asked) == 5  # only what is missing


def test_the_next_mirror_is_asked_when_one_fails_or_lies(nowhere, monkeypatch):
    def answer(url):
        if url.startswith(builtin.MIRRORS[0]):
            return gzip.compress(b"something else") if "train" in url else b"no gzip"
        return gzip.compress(contents()[file_of(url)])

    assert len(serve(monkeypatch, answer)) == 0
    assert len(builtin.fashion_mnist()["test"][0]) == 10


def test_a_download_that_is_not_the_published_file_is_not_kept(nowhere, monkeypatch):
    serve(monkeypatch, lambda url: gzip.compress(b"something else"))
    with pytest.raises(InputError, match="sha256 is not the published one"):
        builtin.fashion_mnist()
    assert not nowhere.exists()


def test_a_cache_that_cannot_be_written_leaves_nothing_behind(nowhere, monkeypatch):
    def full(*paths):
        raise OSError(28, "No space left on device")

    serve(monkeypatch, lambda url: gzip.compress(contents()[file_of(url)]))
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(WorkError, match=r"^.*images.*\.gz: cannot be written \(No space left on device\)$"):
        builtin.fashion_mnist()
    assert list(nowhere.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[: len(packed) // 2],
        lambda packed: b"",
        lambda packed: b"not gzip at all",
        lambda packed: packed[:40] + b"\xff\xff\xff" + packed[43:],
        lambda packed: gzip.compress(gzip.decompress(packed)[:-1]),
        lambda packed: gzip.compress(b"\0\0\x08\x01" + gzip.decompress(packed)[4:]),
        lambda packed: gzip.compress(b"\0\0"),
        lambda packed: gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12),
    ],
)
def test_damaged_files(tmp_path, nowhere, damage):
    path = write(tmp_path / "mine", contents()) / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz: .*fetch it again") as caught:
        builtin.fashion_mnist(tmp_path / "mine")
    assert "\n" not in str(caught.value)


def test_images_and_labels_that_do_not_belong_together(tmp_path, nowhere):
    for labels in (np.arange(19) % 10, np.full(20, 10)):
        write(tmp_path / "mine", contents() | {"train-labels-idx1-ubyte": idx(labels)})
        with pytest.raises(InputError, match="do not belong together"):
            builtin.fashion_mnist(tmp_path / "mine")


@pytest.mark.skipif(not builtin.SYSTEM_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_published_hashes():
    path = builtin.SYSTEM_FOLDER
    for name, expected in builtin.FILES.items():
        assert hashlib.sha256(gzip.decompress((path / f"{name}.gz").read_bytes())).hexdigest() == expected
