#!/usr/bin/env bash
# The real run of docs/results.md: pretrains a Mamba of 8 layers and width 256 with the GPT-NeoX
# tokenizer on plain text, then fine-tunes it on SST-2 and DART with several methods.
#
#   bench/real_run.sh ADDER DATA OUT [pretrain|sst2|dart|all]
#
# DATA holds neox_tokenizer/20B_tokenizer.json.xz, corpus/, glue_sst2/ and dart/ in their published
# layouts.
set -eu
adder=$(realpath "$1")
data=$(realpath "$2")
out=$3
stage=${4:-all}
mkdir -p "$out"
cd "$out"

if [ "$stage" = all ] || [ "$stage" = pretrain ]; then
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
[{"peft_type": "LORA", "target_modules": ["out_proj"], "r": 8, "lora_alpha": 8, "lora_dropout": 0.1},
 {"peft_type": "LAYER_FREEZE", "trainable_layers": ["norm_f"]}]
JSON
sdt() { # the rule that selects
  cat <<JSON
{"peft_type": "SD_LORA", "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
 "num_zero": {"state": 0, "channel": 0}, "num_freeze": {"state": 0.75, "channel": 0.9},
 "proj_lora_r": 8, "proj_lora_dropout": 0.1, "num_warmup_it": 149, "selection": "$1",
 "finetune_parameters": ["norm_f.weight"]}
JSON
}
sdt displacement >sdt.json
sdt random >random.json

finetune() { # name, method, learning rate, further options
  local name=$1 method=$2 lr=$3
  shift 3
  local peft=()
  [ "$method" = full ] || peft=(--peft "$method.json")
  "$adder" train --model pre/model "${peft[@]}" --lr "$lr" --out "$name-$method" --overwrite \
    --log-every 20 "$@"
}
result() { # run -> the flags that evaluate it
  if [ -d "$1/adapter" ]; then
    echo "--model pre/model --adapter $1/adapter"
  else
    echo "--model $1/model"
  fi
}

if [ "$stage" = all ] || [ "$stage" = sst2 ]; then
  "$adder" eval --model pre/model --data "sst2:$data/glue_sst2" --split test --json >sst2-nothing.json
  for pair in lora:1e-2 sdt:1e-2 random:1e-2 full:1e-3; do
    method=${pair%%:*}
    finetune sst2 "$method" "${pair##*:}" --data "sst2:$data/glue_sst2" --max-train-examples 8000 \
      --max-val-examples 1000 --epochs 2 --batch-size 16 --seed 42
    # shellcheck disable=SC2046
    "$adder" eval $(result "sst2-$method") --data "sst2:$data/glue_sst2" --split test --json \
      >"sst2-$method.json"
  done
fi

if [ "$stage" = all ] || [ "$stage" = dart ]; then
  for pair in lora:4e-3 sdt:4e-3 full:1e-3; do
    method=${pair%%:*}
    finetune dart "$method" "${pair##*:}" --data "dart:$data/dart" --data-option train_from=dev \
      --max-val-examples 300 --epochs 2 --batch-size 8 --seed 42
    # shellcheck disable=SC2046
    "$adder" eval $(result "dart-$method") --data "dart:$data/dart" --split test \
      --max-new-tokens 60 --max-examples 300 --json >"dart-$method.json"
  done
fi
