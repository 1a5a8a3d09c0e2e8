import os

import numpy as np
import pytest
from PIL import Image

from vitnext.data.image_folder import read_image_folder
from vitnext.errors import InputError


def touch(root, *paths):
    """Files with something in them; listing never opens one."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(path.encode())
    return root


def names(files):
    return [name.decode() for name in files.names]


def refusal(root):
    with pytest.raises(InputError) as caught:
        read_image_folder(root)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)
    return str(caught.value)


# ---- layouts


def test_one_tree(tmp_path):
    folder = read_image_folder(touch(tmp_path, "cat/1.jpg", "cat/0.png", "dog/2.webp"))
    assert folder.classes == ("cat", "dog")
    assert list(folder.parts) == ["all"]
    files = folder.parts["all"]
    assert names(files) == ["cat/0.png", "cat/1.jpg", "dog/2.webp"]
    assert files.labels.tolist() == [0, 0, 1] and files.labels.dtype == np.int64
    assert files.stamps[:, 0].tolist() == [9, 9, 10]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val", "VALIDATION", "dev"])
def test_given_splits(tmp_path, val):
    folder = read_image_folder(touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", f"{val}/b/2.jpg", "test/a/3.jpg"))
    assert folder.classes == ("a", "b")
    assert {split: names(files) for split, files in folder.parts.items()} == {
        "train": ["train/a/1.jpg", "train/b/1.jpg"],
        "val": [f"{val}/b/2.jpg"],
        "test": ["test/a/3.jpg"],
    }
    assert folder.parts["val"].labels.tolist() == [1]  # of the whole list of classes, not of what val happens to hold


@pytest.mark.parametrize(("usual", "seldom", "split"), [("val", "dev", "val"), ("test", "holdout", "test")])
def test_a_seldom_name_is_passed_over_beside_the_usual_one(tmp_path, usual, seldom, split):
    paths = [f"{folder}/{name}/1.jpg" for folder in ("train", seldom, usual) for name in "ab"]
    folder = read_image_folder(touch(tmp_path, *paths))
    assert names(folder.parts[split]) == [f"{usual}/a/1.jpg", f"{usual}/b/1.jpg"] and folder.unused == (seldom,)


def test_the_long_names_of_splits(tmp_path):
    folder = read_image_folder(touch(tmp_path, "Training/a/1.jpg", "Training/b/1.jpg", "Testing/a/2.jpg", "holdouts/1"))
    assert (folder.classes, list(folder.parts), folder.unused) == (("a", "b"), ["test", "train"], ("holdouts",))


@pytest.mark.parametrize("below", ["", "train/"])
def test_folders_in_class_folders_without_images_are_named(tmp_path, below):
    touch(tmp_path, *(f"{below}{name}/1.jpg" for name in ("animals/cat", "animals/dog", "things/car/red")))
    folder = read_image_folder(tmp_path)
    assert folder.nested == tuple(f"{below}{name}" for name in ("animals/cat", "animals/dog", "things/car"))
    assert read_image_folder(touch(tmp_path, f"{below}animals/2.jpg")).nested == ()


def test_train_alone_is_one_tree(tmp_path):
    folder = read_image_folder(touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg"))
    assert names(folder.parts["all"]) == ["train/a/1.jpg", "train/b/1.jpg"]


def test_train_may_be_a_class(tmp_path):
    folder = read_image_folder(touch(tmp_path, "bus/1.jpg", "train/1.jpg", "train/old/2.jpg"))
    assert folder.classes == ("bus", "train")
    assert names(folder.parts["all"]) == ["bus/1.jpg", "train/1.jpg", "train/old/2.jpg"]


def test_other_folders_beside_given_splits_are_not_classes(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "extra/1.jpg", "annotations/x/1.jpg", ".git/1")
    folder = read_image_folder(tmp_path)
    assert (folder.classes, folder.unused) == (("a", "b"), ("annotations", "extra"))


def test_images_beside_the_class_folders_are_named(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "train/2.jpg", "val/a/1.jpg", "val/3.png", "4.gif", "notes.txt")
    folder = read_image_folder(tmp_path)
    assert (folder.loose, folder.ignored, folder.unused) == (("4.gif", "train/2.jpg", "val/3.png"), 0, ())
    assert len(folder.parts["train"].names) == 2


def test_images_at_any_depth_and_every_extension(tmp_path):
    inner = [
        f"a/x/y/{i}.{e}" for i, e in enumerate(("jpg", "jpeg", "PNG", "webp", "BMP", "tif", "Tiff", "gif", "JFIF"))
    ]
    folder = read_image_folder(touch(tmp_path, *inner, "b/1.jpg"))
    assert names(folder.parts["all"]) == [*inner, "b/1.jpg"]


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touch(
        tmp_path, "a/1.jpg", "b/1.jpg", "a/.2.jpg", "a/.thumbs/3.jpg", ".git/4.jpg", "__MACOSX/a/5.jpg", "a/.DS_Store"
    )
    folder = read_image_folder(tmp_path)
    assert folder.classes == ("a", "b")
    assert names(folder.parts["all"]) == ["a/1.jpg", "b/1.jpg"]
    assert folder.ignored == 0


def test_other_files_are_counted(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg", "a/notes.txt", "a/2.heic", "b/x/3.json", "b/jpg", "loose.png", "README.md")
    folder = read_image_folder(tmp_path)
    assert folder.ignored == 4  # README.md beside the classes is nothing to mention
    assert (folder.loose, folder.unused) == (("loose.png",), ())
    assert folder.ignored_examples == ("a/2.heic", "a/notes.txt", "b/jpg")


def test_classes_are_sorted_by_name(tmp_path):
    folder = read_image_folder(touch(tmp_path, *(f"{name}/1.jpg" for name in ("2", "10", "b", "B", "é", "1 2"))))
    assert folder.classes == ("1 2", "10", "2", "B", "b", "é")
    assert folder.parts["all"].labels.tolist() == list(range(6))


def test_the_order_of_listing_does_not_matter(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{c}/{d}/{i}.jpg" for c in "abc" for d in "xy" for i in range(4)))
    expected = read_image_folder(tmp_path)

    class Backwards:
        def __init__(self, path):
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda e: e.name, reverse=True)

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", Backwards)
    found = read_image_folder(tmp_path)
    assert found.classes == expected.classes
    np.testing.assert_array_equal(found.parts["all"].names, expected.parts["all"].names)
    np.testing.assert_array_equal(found.parts["all"].labels, expected.parts["all"].labels)


def test_links(tmp_path):
    touch(tmp_path / "data", "b/1.jpg")
    touch(tmp_path / "elsewhere", "1.jpg", "in/2.jpg")
    (tmp_path / "data" / "a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere" / "in" / "loop").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "data" / "b" / "2.jpg").symlink_to(tmp_path / "nowhere")
    files = read_image_folder(tmp_path / "data").parts["all"]
    assert names(files) == ["a/1.jpg", "a/in/2.jpg", "b/1.jpg", "b/2.jpg"]
    assert files.stamps[3, 0] == -1


def test_file_names_that_are_not_utf8(tmp_path):
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    path = os.fsencode(tmp_path) + b"/b/\xff.jpg"
    try:
        with open(path, "wb") as file:
            Image.new("RGB", (2, 2)).save(file, "JPEG")
    except OSError:
        pytest.skip("this file system wants UTF-8")
    assert read_image_folder(tmp_path).parts["all"].names[2] == b"b/\xff.jpg"
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    assert "not UTF-8" in refusal(tmp_path)


# ---- what is no data set


def test_an_empty_folder_explains_the_layouts(tmp_path):
    assert "train/CLASS/*.jpg" in refusal(tmp_path) and "one folder per class" in refusal(tmp_path)


def test_images_without_class_folders(tmp_path):
    assert "no class folders" in refusal(touch(tmp_path, "1.jpg", "2.jpg"))


def test_one_class_only(tmp_path):
    assert "only one class folder, 'cat'" in refusal(touch(tmp_path, "cat/1.jpg"))


def test_one_class_only_in_train(tmp_path):
    assert "only one class folder, 'cat'" in refusal(touch(tmp_path, "train/cat/1.jpg", "val/cat/1.jpg"))


def test_a_folder_around_the_data_set(tmp_path):
    touch(tmp_path, "flowers/train/a/1.jpg", "flowers/train/b/1.jpg")
    assert f"did you mean {tmp_path / 'flowers'}?" in refusal(tmp_path)


def test_no_images_at_all(tmp_path):
    assert "no image in any of its 2 class folders" in refusal(touch(tmp_path, "a/1.txt", "b/1.heic"))


def test_a_split_without_images(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.txt")
    assert f"{tmp_path / 'val'}: no image" in refusal(tmp_path)


def test_a_split_without_class_folders(tmp_path):
    assert f"{tmp_path / 'test'}: no class folders" in refusal(
        touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "test/1.jpg")
    )


def test_classes_that_train_lacks(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "val/B/1.jpg")
    message = refusal(tmp_path)
    assert "1 class folder that train/ lacks: B" in message and str(tmp_path / "val") in message


def test_two_names_for_one_split(tmp_path):
    touch(tmp_path, "train/a/1.jpg", "train/b/1.jpg", "val/a/1.jpg", "valid/a/1.jpg")
    assert "both val/ and valid/" in refusal(tmp_path)


def test_val_without_train(tmp_path):
    assert "no train/" in refusal(touch(tmp_path, "val/a/1.jpg", "test/a/1.jpg"))


@pytest.mark.parametrize("folder", ["", "b"])
def test_a_folder_that_cannot_be_listed(tmp_path, monkeypatch, folder):
    touch(tmp_path, "a/1.jpg", "b/1.jpg")
    scandir = os.scandir

    def refuse(path):
        if os.fsdecode(path).endswith(folder):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert f"{tmp_path / folder}: cannot be listed (Permission denied)" in refusal(tmp_path)
