#!/usr/bin/env bash
# The image experiment of docs/results.md: a deep S4 learns MNIST pixel by pixel and is adapted to
# CIFAR-10 (grey) by several methods, each evaluated on the test images.
#
#   bench/s4_images.sh ADDER DATA OUT [METHOD ...]
#
# METHOD: sdt_lora, lora, full; without one, all of them. DATA holds mnist/ and cifar10/ in their
# published layouts.
set -eu
adder=$(realpath "$1")
data=$(realpath "$2")
out=$3
shift 3
methods=${*:-sdt_lora lora full}
mkdir -p "$out"
cd "$out"

cat >config.json <<'JSON'
{"model_type": "deep_s4", "mode": "default", "d_model": 64, "n_layers": 4, "d_state": 16, "d_input": 1, "d_output": 10}
JSON
# Both adapters train the same number of parameters.
cat >sdt_lora.json <<'JSON'
[{"peft_type": "SDT_S4", "select_channels": 64, "update_channels": 8, "select_states": 16, "update_states": 4,
  "rule": "displacement", "warmup_ratio": 0.1,
  "finetune_parameters": ["encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "output_linear.bias", "D", "log_dt"]},
 {"peft_type": "LORA", "target_modules": ["output_linear"], "r": 4, "lora_alpha": 4}]
JSON
cat >lora.json <<'JSON'
[{"peft_type": "LORA", "target_modules": ["output_linear"], "r": 5, "lora_alpha": 5},
 {"peft_type": "LAYER_FREEZE", "trainable_layers": ["encoder", "decoder", "output_linear.bias", ".D", "log_dt"]}]
JSON

if [ ! -e mnist/summary.json ]; then
  [ -e start ] || "$adder" init --config config.json --seed 1 --out start
  "$adder" train --model start --data "mnist:$data/mnist" --out mnist --epochs 3 --batch-size 64 --lr 0.01 --warmup 200 \
    --overwrite
fi
echo "== MNIST, test images"
"$adder" eval --model mnist/model --data "mnist:$data/mnist" --split test --batch-size 64
for method in $methods; do
  peft=()
  [ "$method" = full ] || peft=(--peft "$method.json")
  if [ ! -e "$method/summary.json" ]; then
    "$adder" train --model mnist/model --data "cifar10:$data/cifar10" "${peft[@]}" --out "$method" --epochs 10 \
      --batch-size 64 --lr 0.005 --overwrite
  fi
  result=(--model mnist/model --adapter "$method/adapter")
  [ "$method" = full ] && result=(--model "$method/model")
  echo "== CIFAR-10 by $method, test images"
  "$adder" eval "${result[@]}" --data "cifar10:$data/cifar10" --split test --batch-size 64
done
