import os
from pathlib import Path

import pytest

from vitnext.errors import InputError
from vitnext.inference.sources import find_images, images_and_results, other_files


@pytest.fixture
def photos(tmp_path, monkeypatch):
    for name in ("b/2.PNG", "b/1.jpeg", "a.jpg", "b/c/3.tif", "notes.txt", ".hidden.jpg", ".cache/4.jpg"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return "photos"


def test_folder_is_searched_at_every_depth_in_order_without_hidden_files(photos):
    expected = ["photos/a.jpg", "photos/b/1.jpeg", "photos/b/2.PNG", "photos/b/c/3.tif"]
    assert find_images(photos) == expected
    assert find_images([photos]) == expected


def test_what_else_lies_in_folders_is_told_heic_first(photos):
    for name in ("b/IMG_1.HEIC", "b/scan", "c.jfif", "d.avif"):
        (Path(photos) / name).touch()
    assert other_files([photos], None) == ["photos/b/IMG_1.HEIC", "photos/b/scan", "photos/notes.txt"]
    assert other_files(["ph*s/[b]", "photos/notes.txt"], None) == ["photos/b/IMG_1.HEIC", "photos/b/scan"]
    assert other_files([photos], "photos/b") == ["photos/notes.txt"]
    assert {"photos/c.jfif", "photos/d.avif"} < set(find_images(photos))


@pytest.mark.parametrize(
    ("path", "what"),
    [("-", "standard input is not read"), ("https://a.org/b.jpg?c=1", "URLs are not read: download it")],
)
def test_what_is_no_path(photos, path, what):
    with pytest.raises(InputError, match=what):
        find_images([path])


def test_a_folder_of_heic_alone(tmp_path):
    (tmp_path / "IMG_1.HEIC").touch()
    with pytest.raises(InputError, match="no images found .*; 1 file passed over: .*convert it to JPEG"):
        find_images(tmp_path)


def test_named_file_is_kept_whatever_its_extension(photos):
    assert find_images(["photos/notes.txt", "photos/.hidden.jpg"]) == ["photos/notes.txt", "photos/.hidden.jpg"]


def test_glob_stands_for_what_a_shell_makes_of_it(photos):
    assert find_images("photos/b/*.[pP][nN][gG]") == ["photos/b/2.PNG"]
    assert find_images("photos/**/*.jp*g") == ["photos/a.jpg", "photos/b/1.jpeg"]
    assert find_images("ph*s/[b]") == ["photos/b/1.jpeg", "photos/b/2.PNG", "photos/b/c/3.tif"]


def test_name_with_glob_characters_is_a_name_if_it_exists(photos):
    os.rename("photos/a.jpg", "photos/a[1].jpg")
    assert find_images("photos/a[1].jpg") == ["photos/a[1].jpg"]


def test_order_given_is_kept_and_a_file_comes_once(photos):
    named = ["photos/b/2.PNG", "photos", os.path.abspath("photos/a.jpg"), "./photos/b/1.jpeg"]
    assert find_images(named) == ["photos/b/2.PNG", "photos/a.jpg", "photos/b/1.jpeg", "photos/b/c/3.tif"]


def test_links_to_folders_are_followed_without_looping(photos, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "5.bmp").touch()
    os.symlink(outside, "photos/link")
    os.symlink(tmp_path / "photos", "photos/b/parent")
    assert find_images(photos)[-1] == "photos/link/5.bmp"
    assert len(find_images(photos)) == 5


@pytest.mark.parametrize("missing", ["nowhere", "nowhere/*.jpg", "photos/b/c/x.png", "empty"])
def test_path_without_images_is_named(photos, missing):
    os.mkdir("empty")
    with pytest.raises(InputError, match=rf"^{missing.replace('*', '.')}: no ") as error:
        find_images([photos, missing])
    assert "\n" not in str(error.value)


def test_nothing_named():
    with pytest.raises(InputError, match="no images were named"):
        find_images([])


def test_results_of_an_earlier_run_are_left_out(photos):
    """What lies where results go, unless the path that is named leads there itself."""
    images, results = ["photos/a.jpg"], ["photos/b/1.jpeg", "photos/b/2.PNG", "photos/b/c/3.tif"]
    assert images_and_results(["photos"], "photos/b") == (images, results)
    assert images_and_results("photos", os.path.abspath("photos/b/c")) == ([*images, *results[:2]], results[2:])
    assert images_and_results("photos/**/*.*", "photos/b") == (["photos/a.jpg", "photos/notes.txt"], results)
    assert images_and_results("photos", "photos/new") == images_and_results("photos", None) == ([*images, *results], [])
    for meant in ("photos/b", "photos/b/c", "photos/b/*", "photos/b/1.jpeg"):
        assert images_and_results(meant, "photos/b") == (find_images(meant), [])
    assert images_and_results("photos", "photos") == images_and_results("photos", ".") == ([*images, *results], [])
    assert images_and_results(["photos", "photos/b/2.PNG"], "photos/b") == ([*images, "photos/b/2.PNG"], results[::2])
    os.symlink("b", "photos/link")
    assert images_and_results("photos", "photos/link") == (images, results)
    with pytest.raises(InputError, match="^photos: no images but those that masks were written as: name another"):
        os.unlink("photos/a.jpg")
        images_and_results("photos", "photos/b")


def test_masks_written_into_another_folder_are_left_out(photos):
    os.makedirs("photos/old/panoptic")
    for name in ("a.png", "a_confidence.png", "panoptic/a.png"):
        Path("photos/old", name).touch()
    images = find_images("photos/a.jpg") + find_images("photos/b")
    assert len(images_and_results("photos", "photos/new")[0]) == 7  # nothing says that they are masks
    Path("photos/old/classes.txt").touch()
    left = ["photos/old/a.png", "photos/old/a_confidence.png", "photos/old/panoptic/a.png"]
    assert images_and_results("photos", "photos/new") == (images, left)
    assert images_and_results("photos", None)[1] == []
