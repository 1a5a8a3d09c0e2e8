"""`vitnext convert`"""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitnext
from vitnext.card import read_card
from vitnext.cli.main import main
from vitnext.weights.hub import sha256


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", depth=12, num_classes=3, img_size=32).eval()


@pytest.fixture(scope="module")
def weights(theirs, tmp_path_factory):
    path = tmp_path_factory.mktemp("theirs") / "theirs.pth"
    torch.save(theirs.state_dict(), path)
    return path


@pytest.fixture
def photo(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "photo.png"
    Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


def test_a_checkpoint_becomes_an_artifact_that_predicts(capsys, theirs, weights, photo, tmp_path):
    out = tmp_path / "new" / "vit.safetensors"
    assert main(["convert", str(weights), "--out", str(out)]) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == f"{out}\n"
    assert stderr.splitlines() == [
        f"weights: {weights}",
        "recognised: timm's and the authors' layout of vit_tiny, 3 classes, 32 px",
        "licence of the weights: unknown: that of theirs.pth",
        "images: how these weights want them is not known; customary is taken: 32 x 32 px from the centre of "
        "37 x 37, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)",
        "the classes have no names: they are numbered 0 to 2 (--classes FILE names them)",
    ]
    card = read_card(out)
    assert (card.architecture, card.task, card.classes) == ("vit_tiny", "classification", ("0", "1", "2"))
    assert card.licence == "unknown: that of theirs.pth"
    assert card.data == {"name": str(weights), "kind": "weights", "sha256": sha256(weights)}
    predictor = vitnext.load(out)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(card.preprocess(photo))[None]).softmax(dim=1)[0]
    prediction = predictor.predict(photo)
    assert np.abs(prediction.scores - expected.numpy()).max() < 1e-5
    assert main(["predict", str(out), str(photo), "--out", str(tmp_path / "labels.csv")]) == 0


def test_names_of_classes(capsys, weights, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("tench\ngoldfish\n\ngreat white shark\n", encoding="utf-8")
    out = tmp_path / "vit.safetensors"
    assert main(["convert", str(weights), "--out", str(out), "--model", "vit_tiny", "--classes", str(names)]) == 0
    assert read_card(out).classes == ("tench", "goldfish", "great white shark")
    assert "numbered" not in capsys.readouterr().err
    again = tmp_path / "again.safetensors"
    assert main(["convert", str(out), "--out", str(again)]) == 0  # an artifact keeps its names
    assert read_card(again).classes == ("tench", "goldfish", "great white shark")


def test_published_weights(capsys, tmp_path):
    folder = tmp_path / "timm" / "convnextv2_atto.fcmae_ft_in1k"
    folder.mkdir(parents=True)
    save_file(timm.create_model("convnextv2_atto").state_dict(), folder / "model.safetensors")
    out = tmp_path / "convnext.safetensors"
    assert main(["convert", str(folder), "--out", str(out)]) == 0
    assert "licence of the weights: CC-BY-NC-4.0 (no commercial use)" in capsys.readouterr().err
    card = read_card(out)
    assert card.licence == "CC-BY-NC-4.0 (no commercial use); of timm/convnextv2_atto.fcmae_ft_in1k"
    assert card.metrics == {"imagenet-1k": {"top1": 0.767, "measured_by": "the authors"}}
    assert (card.preprocess.image_size, card.preprocess.resize) == ((224, 224), "crop")
    assert len(card.classes) == 1000


def test_a_network_without_a_head(capsys, tmp_path, photo):
    save_file(timm.create_model("convnext_atto", num_classes=0).state_dict(), tmp_path / "body.safetensors")
    out = tmp_path / "features.safetensors"
    assert main(["convert", str(tmp_path / "body.safetensors"), "--out", str(out)]) == 0
    assert "there is no head, so nothing is predicted" in capsys.readouterr().err
    assert (read_card(out).task, read_card(out).classes) == ("features", ())
    assert main(["predict", str(out), str(photo), "--out", str(tmp_path / "x.csv")]) == 2
    assert 'a model for the task "features"' in capsys.readouterr().err
    assert vitnext.create_model("convnext_atto", classes=2, pretrained=out).config.classes == 2


def test_images_that_are_no_squares(capsys, photo, tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=(48, 96)).eval()
    torch.save(theirs.state_dict(), tmp_path / "oblong.pth")
    out = tmp_path / "oblong.safetensors"
    assert main(["convert", str(tmp_path / "oblong.pth"), "--out", str(out)]) == 2
    assert (
        "pos_embed is (1, 19, 192), whose patches are no square: give the image size, HEIGHTxWIDTH"
        in capsys.readouterr().err
    )
    assert main(["convert", str(tmp_path / "oblong.pth"), "--image-size", "48x96", "--out", str(out)]) == 0
    assert "3 classes, 48 x 96 px" in capsys.readouterr().err
    card = read_card(out)
    assert card.config["image_size"] == [48, 96] and card.preprocess.image_size == (48, 96)
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(card.preprocess(photo))[None]).softmax(dim=1)[0]
    assert np.abs(vitnext.load(out).predict(photo).scores - expected.numpy()).max() < 1e-5
    larger = tmp_path / "larger.safetensors"
    assert main(["convert", str(out), "--image-size", "96x64", "--out", str(larger)]) == 0
    assert "position embedding: 3x6 -> 6x4 patches" in capsys.readouterr().err
    assert vitnext.load(larger).predict(photo).scores.shape == (3,)
    vitnext.export(out, "onnx")
    assert np.abs(vitnext.load(out.with_suffix(".onnx")).predict(photo).scores - expected.numpy()).max() < 1e-4


def test_the_image_size_of_a_network_that_takes_any(capsys, photo, tmp_path):
    folder = tmp_path / "timm" / "convnextv2_atto.fcmae_ft_in1k"
    folder.mkdir(parents=True)
    save_file(timm.create_model("convnextv2_atto").state_dict(), folder / "model.safetensors")
    out = tmp_path / "convnext.safetensors"
    assert main(["convert", str(folder), "--image-size", "64x96", "--out", str(out)]) == 0
    card = read_card(out)
    assert card.preprocess.image_size == (64, 96)
    assert card.metrics == {}  # what was published was measured at another size
    assert vitnext.load(out).predict(photo).scores.shape == (1000,)


def test_googles_files_are_normalised_to_halves(tmp_path):
    from vitnext.models import catalog
    from vitnext.weights.rename import rename
    from vitnext.weights.tables.vit import ORIGINAL

    state = rename(catalog.build("vit_tiny", classes=2, image_size=32).state_dict(), ORIGINAL, reverse=True)
    np.savez(tmp_path / "Ti_16.npz", **{key: tensor.numpy() for key, tensor in state.items()})
    assert main(["convert", str(tmp_path / "Ti_16.npz"), "--out", str(tmp_path / "ti.safetensors")]) == 0
    assert read_card(tmp_path / "ti.safetensors").preprocess.mean == (0.5, 0.5, 0.5)


def test_mistakes(capsys, weights, tmp_path):
    two, twice, binary = (tmp_path / name for name in ("two.txt", "twice.txt", "binary.txt"))
    two.write_text("a\nb\n")
    twice.write_text("a\nb\na\n")
    binary.write_bytes(b"\xff\xfe\x00")
    empty = tmp_path / "empty.pth"
    empty.touch()
    out = ["--out", str(tmp_path / "x.safetensors")]
    for arguments, message in (
        ([str(tmp_path / "no.pth"), *out], "no.pth: no such file"),
        ([str(empty), *out], "empty.pth is empty: get it again"),
        ([str(weights), "--out", str(tmp_path / "x.pth")], "give a name that ends in .safetensors"),
        ([str(weights), "--out", str(tmp_path)], "give a name that ends in .safetensors"),
        (
            [str(weights), *out, "--model", "vit_small"],
            "is not vit_small, it holds timm's and the authors' layout of vit",
        ),
        ([str(weights), *out, "--image-size", "9x"], "--image-size 9x: give pixels, a square's side such as 384, or"),
        ([str(weights), *out, "--image-size", "40"], "image_size 40 is not a whole number of patches of 16 px"),
        ([str(weights), *out, "--model", "vit_tini"], "did you mean vit_tiny?"),
        ([str(weights), *out, "--classes", str(two)], "2 class names for a head of 3: give one for each output"),
        ([str(weights), *out, "--classes", str(twice)], 'two classes are called "a"'),
        ([str(weights), *out, "--classes", str(binary)], "is no text in UTF-8"),
        ([str(weights), *out, "--classes", str(tmp_path / "no.txt")], "No such file"),
        ([str(weights)], "out"),
    ):
        assert main(["convert", *arguments]) == 2, arguments
        err = capsys.readouterr().err.splitlines()
        assert err[-1].startswith("vitnext: ") and message in err[-1], err
    assert not list(tmp_path.glob("x.*"))
