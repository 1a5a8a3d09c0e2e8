#!/usr/bin/env bash
# Train two small models on scikit-learn's handwritten digits, export one, and measure and predict without PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
out=runs/demo
rm -rf "$out"

step() {
    printf '\n$ %s\n' "$*"
    "$@"
}

for model in vit convnext; do
    step vitnext train digits --model "$model" --out "$out/$model"  # measures the model at its end
done
step vitnext export "$out/convnext/model.safetensors" --to onnx --images digits
step vitnext evaluate "$out/convnext/model.onnx" digits --out "$out/convnext/export"

python demo/digit_images.py "$out/images"
step vitnext predict "$out/convnext/model.onnx" "$out/images"

cat <<END

Done. The files are named TRUTH_NUMBER.png: compare them with the labels above.

  reports   $out/vit/report.html
            $out/convnext/report.html              (open in a browser)
            $out/convnext/export/report.html       (of model.onnx: the same figures)
  models    $out/vit/model.safetensors
            $out/convnext/model.safetensors
            $out/convnext/model.onnx               (predicts without PyTorch)

Next, with your own pictures in one folder per class:

  source .venv/bin/activate
  vitnext check path/to/pictures
  vitnext train path/to/pictures --out runs/mine
END
