#!/usr/bin/env bash
# Train two small models on scikit-learn's handwritten digits, measure them, and predict without PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
out=runs/demo
rm -rf "$out"

step() {
    printf '\n$ %s\n' "$*"
    "$@"
}

for model in vit convnext; do
    step vitnext train digits --model "$model" --out "$out/$model"
    step vitnext evaluate "$out/$model/model.safetensors" digits --out "$out/$model/evaluation"
done
step vitnext export "$out/convnext/model.safetensors" --to onnx --images digits

python demo/digit_images.py "$out/images"
step vitnext predict "$out/convnext/model.onnx" "$out/images"

cat <<END

Done. The files are named TRUTH_NUMBER.png: compare them with the labels above.

  reports   $out/vit/evaluation/report.html
            $out/convnext/evaluation/report.html   (open in a browser)
  models    $out/vit/model.safetensors
            $out/convnext/model.safetensors
            $out/convnext/model.onnx               (predicts without PyTorch)

Next, with your own pictures in one folder per class:

  source .venv/bin/activate
  vitnext check path/to/pictures
  vitnext train path/to/pictures --out runs/mine
END
