"""`vitnext export`"""

from __future__ import annotations

import shutil

from vitnext.cli.main import main


def test_the_export_goes_beside_the_model(capsys, artifact, tmp_path):
    model = shutil.copy(artifact, tmp_path)
    assert main(["export", str(model), "--to", "onnx"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{tmp_path / 'model.onnx'}  same labels on 8 generated images, largest difference")
    assert out.count("\n") == 1 and err == ""
    assert (tmp_path / "model.onnx").stat().st_size > 100_000


def test_compared_on_real_images(capsys, artifact, tmp_path):
    assert main(["export", str(artifact), "--images", "digits", "--out", str(tmp_path / "digits.onnx")]) == 0
    assert "same labels on 359 images" in capsys.readouterr().out


def test_a_broken_image_is_passed_over_and_said(capsys, artifact, images, tmp_path):
    out = tmp_path / "out.onnx"
    assert main(["export", str(artifact), "--images", str(images), "--out", str(out)]) == 0
    assert "same labels on 4 images (1 could not be read), largest" in capsys.readouterr().out
    out.unlink()
    for path in images.glob("*/*.png"):
        path.write_text("no image")
    assert main(["export", str(artifact), "--images", str(images), "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert "none of the 5 images can be read" in err and err.count("\n") == 1
    assert not out.exists()


def test_mistakes(capsys, artifact, tmp_path):
    for arguments, message in (
        (["nothing.safetensors"], "nothing.safetensors does not exist"),
        ([str(artifact), "--to", "coreml"], "coreml"),
        ([str(artifact), "--out", str(tmp_path)], "is a folder, but a file is needed"),
        ([str(artifact), "--out", str(tmp_path / "model.pt")], ".onnx"),
        ([str(artifact), "--images", "nothing", "--out", str(tmp_path / "model.onnx")], "nothing"),
    ):
        assert main(["export", *arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("vitnext: ") and message in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
