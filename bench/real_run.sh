#!/usr/bin/env bash
# The real run of docs/results.md: pretrains a Mamba of 8 layers and width 256 with the GPT-NeoX
# tokenizer on plain text, then fine-tunes it on SST-2 and DART with several methods.
#
#   bench/real_run.sh ADDER DATA OUT [pretrain|sst2|dart|all] [METHOD ...]
#
# METHOD: nothing, lora, sdt, random, full; without one, all of them, one after the other.
# DATA holds neox_tokenizer/20B_tokenizer.json.xz, corpus/, glue_sst2/ and dart/ in their published
# layouts.
set -eu
adder=$(realpath "$1")
data=$(realpath "$2")
out=$3
stage=${4:-all}
methods=" ${*:5} "
wanted() { [ "$stage" = all ] || [ "$stage" = "$1" ]; }
method_wanted() { [ -z "${methods// /}" ] || [[ $methods == *" $1 "* ]]; }
mkdir -p "$out"
cd "$out"

if wanted pretrain; then
  xz -dc "$data/neox_tokenizer/20B_tokenizer.json.xz" >tokenizer.json
  {
    cat "$data/corpus/tinyshakespeare.txt"
    echo
    xz -dc "$data/corpus/sherlock.txt.xz"
    echo
    cat "$data/corpus/wikitext2_valid.txt"
    echo
    cat "$data/corpus/tinystories_sample.txt"
  } >corpus.txt
  head -c 120000 "$data/corpus/wikitext2_test.txt" >val.txt
  cat >config.json <<'JSON'
{"model_type": "mamba", "hidden_size": 256, "num_hidden_layers": 8, "vocab_size": 50280,
 "state_size": 16, "conv_kernel": 4, "expand": 2, "time_step_rank": "auto",
 "tie_word_embeddings": true, "residual_in_fp32": true}
JSON
  "$adder" init --config config.json --tokenizer tokenizer.json --seed 1 --out base0
  "$adder" train --model base0 --data corpus.txt --val val.txt --out pre --epochs 1 --batch-size 8 \
    --max-length 256 --lr 2e-3 --schedule cosine --warmup 40 --weight-decay 0.05 \
    --log-every 10 --eval-every 247 --overwrite
fi

# The answers' digits are rare in the pretraining text, so their rows of the frozen head are short: every
# method trains the final norm's 256 scales besides, without which no logit could grow enough.
cat >lora.json <<'JSON'
[{"peft_type": "LORA", "target_modules": ["in_proj", "out_proj"], "r": 8, "lora_alpha": 16, "lora_dropout": 0},
 {"peft_type": "LAYER_FREEZE", "trainable_layers": ["norm_f"]}]
JSON
sdt() { # the rule that selects
  cat <<JSON
[{"peft_type": "SD_LORA", "target_modules": ["A_log", "x_proj_B", "x_proj_C"],
  "num_zero": {"state": 0, "channel": 0}, "num_freeze": {"state": 0.75, "channel": 0.9},
  "num_warmup_it": 249, "selection": "$1"},
 {"peft_type": "LORA", "target_modules": ["in_proj", "out_proj"], "r": 8, "lora_alpha": 16, "lora_dropout": 0},
 {"peft_type": "LAYER_FREEZE", "trainable_layers": ["norm_f"]}]
JSON
}
sdt displacement >sdt.json
sdt random >random.json

# Trains NAME-METHOD on the data in the further options and tests it.
run() { # name, method, learning rate, options of training and testing, further ones of testing after --
  local name=$1 method=$2 lr=$3
  shift 3
  local common=() test=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do
    common+=("$1")
    shift
  done
  [ $# -gt 0 ] && test=("${@:2}")
  local peft=(--peft "$method.json") result=(--model pre/model --adapter "$name-$method/adapter")
  if [ "$method" = full ]; then
    peft=()
    result=(--model "$name-full/model")
  fi
  "$adder" train --model pre/model "${peft[@]}" --lr "$lr" --out "$name-$method" --overwrite --log-every 20 \
    --seed 42 "${common[@]}" "${train[@]}"
  "$adder" eval "${result[@]}" "${common[@]}" --split test "${test[@]}" --json >"$name-$method.json"
}

if wanted sst2; then
  sst2=(--data "sst2:$data/glue_sst2" --data-option instruction=)
  if method_wanted nothing; then
    "$adder" eval --model pre/model "${sst2[@]}" --split test --json >sst2-nothing.json
  fi
  for pair in lora:3e-3 sdt:3e-3 random:3e-3 full:5e-4; do
    method_wanted "${pair%%:*}" || continue
    train=(--max-val-examples 1000 --epochs 2 --batch-size 16)
    run sst2 "${pair%%:*}" "${pair##*:}" "${sst2[@]}"
  done
fi

if wanted dart; then
  for pair in lora:3e-3 sdt:3e-3 full:5e-4; do
    method_wanted "${pair%%:*}" || continue
    train=(--data-option train_from=dev --max-val-examples 300 --epochs 2 --batch-size 8)
    run dart "${pair%%:*}" "${pair##*:}" --data "dart:$data/dart" -- --max-new-tokens 60 --max-examples 300
  done
fi
