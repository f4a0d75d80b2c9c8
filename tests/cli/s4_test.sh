#!/usr/bin/env bash
# Sequence models from the command line: a tiny deep S4 is made, trained on tiny generated files,
# killed and resumed, evaluated, adapted, merged; bad input is refused with the documented statuses.
#
#   s4_test.sh ADDER_BINARY
. "$(dirname "$0")/support.sh"

has() { # NAME TEXT [FILE]
  if grep -qF -- "$2" "${3:-out}"; then pass "$1"; else
    fail "$1" "no '$2' in:" "$(head -c 600 "${3:-out}")"
  fi
}
absent() { # NAME KEY FILE
  if grep -qF -- "$2" "$3"; then fail "$1" "'$2' is there"; else pass "$1"; fi
}
# at_least NAME VALUE LIMIT: numbers; anything else fails.
at_least() {
  if awk -v a="$2" -v b="$3" 'BEGIN { exit !(a + 0 == a && a >= b) }'; then pass "$1"; else
    fail "$1" "$2 is not at least $3"
  fi
}

# images STEM PER_CLASS: IDX files of ten classes told apart by their brightness.
images() {
  local stem=$1 each=$2 count class i
  count=$((each * 10))
  { printf '\000\000\010\003\000\000'
    printf "\\$(printf %03o $((count / 256)))\\$(printf %03o $((count % 256)))"
    printf '\000\000\000\034\000\000\000\034'
    for i in $(seq 1 "$each"); do
      for class in 0 1 2 3 4 5 6 7 8 9; do
        head -c 784 /dev/zero | LC_ALL=C tr '\000' "\\$(printf %03o $((class * 25 + i % 7)))"
      done
    done; } >"$stem-images-idx3-ubyte"
  { printf '\000\000\010\001\000\000'
    printf "\\$(printf %03o $((count / 256)))\\$(printf %03o $((count % 256)))"
    for i in $(seq 1 "$each"); do printf '\000\001\002\003\004\005\006\007\010\011'; done
  } >"$stem-labels-idx1-ubyte"
}
mkdir digits
images digits/train 20
images digits/t10k 4
cat >s4.json <<'JSON'
{"model_type": "deep_s4", "d_model": 8, "n_layers": 2, "d_state": 4, "d_input": 1, "d_output": 10,
 "dropout": 0.1}
JSON
cat >theory.json <<'JSON'
{"model_type": "deep_s4", "mode": "theory", "A_init": "random", "d_model": 4, "n_layers": 2,
 "d_state": 4}
JSON
cat >stack.json <<'JSON'
{"model_type": "s4", "d_model": 6, "n_layers": 1, "d_state": 4, "norm": "batch", "prenorm": true}
JSON
echo '{"model_type": "mamba", "hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 260}' >mamba.json
echo '{"peft_type": "LORA", "target_modules": ["output_linear"], "r": 2, "lora_alpha": 2}' >lora.json

# --------------------------------------------------------------------------------- init and info
expect "init makes a deep S4" 0 "$adder" init --config s4.json --seed 3 --out base
has "init says how large it is" "parameters"
expect "init makes a deep S4 in mode theory" 0 "$adder" init --config theory.json --seed 3 --out theory
expect "init makes an official S4 with batch norm" 0 "$adder" init --config stack.json --seed 3 --out stack
expect "init makes a Mamba for comparison" 0 "$adder" init --config mamba.json --tokenizer byte --out mamba
refuse "init with a tokenizer" 2 "--tokenizer is for language models" \
  "$adder" init --config s4.json --tokenizer byte --out x
refuse "init of an unknown key" 2 "d_staet" "$adder" init --out x \
  --config <(sed 's/d_state/d_staet/' s4.json)
expect "info" 0 "$adder" info base
for word in "deep S4" "2 layers" "1 values at each position" "10 for a sequence" A_imag log_dt float32; do
  has "info shows $word" "$word"
done
expect "info of one layer" 0 "$adder" info stack
has "one layer is not several" "1 layer, "
expect "info --json" 0 "$adder" info base --json
has "roles in JSON" '"encoder": 8'
has "sizes in JSON" '"input_size": 1'

# ----------------------------------------------------------------------------------------- train
# Replaces the shell that calls it, so that $! of `start … &` is adder itself.
steps=60 lr=0.02 model=base
start() { # out, further options
  local out=$1
  shift
  exec "$adder" train --model "$model" --data mnist:digits --out "$out" --steps "$steps" --batch-size 10 --lr "$lr" \
    --log-every 3 --eval-every 20 --save-every 7 --threads 1 "$@" 2>>stderr.log
}
run() { (start "$@"); }
cat >sdt.json <<'JSON'
[{"peft_type": "SDT_S4", "select_channels": 6, "update_channels": 2, "select_states": 3,
  "update_states": 2, "warmup_steps": 20},
 {"peft_type": "LORA", "target_modules": ["output_linear"], "r": 2, "lora_alpha": 2}]
JSON
sed 's/"warmup_steps": 20/"rule": "loss"/' sdt.json >ablation.json
resumes() { # NAME OPTION...: a run that is killed and resumed ends as one that is not
  local name=$1 out=$1-killed target=$((2 + RANDOM % 12)) pid
  shift
  run "$name" "$@" >/dev/null || fail "$name: uninterrupted run" "$(tail -n 3 stderr.log)"
  start "$out" "$@" >/dev/null &
  pid=$!
  kill_at_line "$pid" "$out/log.jsonl" "$target"
  run "$out" --resume "$@" >/dev/null
  check "$name: killed at log line $target and resumed" same_files "$name" "$out"
  check "$name: the log continues as if nothing had happened" diff <(losses "$name") <(losses "$out")
}
for method in full lora sdt; do
  options=()
  [ "$method" = full ] || options=(--peft "$method.json")
  resumes "$method" "${options[@]}"
done
# Running statistics are part of the model, of its checkpoints and of no adapter.
model=stack resumes batch
has "running statistics are saved" running_mean batch/model/model.safetensors
sed s/output_linear/output_linear.0/ lora.json >lora-stack.json
model=stack resumes batch-lora --peft lora-stack.json
absent "an adapter has none" running_mean batch-lora/adapter/adapter_model.safetensors
cp full/summary.json out
has "the summary has the validation's accuracy" '"eval_accuracy"'
absent "… and no best step" '"best_loss"' full/summary.json
expect "--dry-run" 0 "$adder" train --model base --data mnist:digits --dry-run
has "--dry-run counts the examples" "180"
has "--dry-run estimates the memory" "memory_estimate_bytes.total"

# ------------------------------------------------------------------------------------------ eval
steps=150 lr=0.05 run longer >/dev/null || fail "a longer run" "$(tail -n 3 stderr.log)"
expect "eval" 0 "$adder" eval --model longer/model --data mnist:digits --split test --json
has "eval of the test files" '"examples": 40'
at_least "the model has learnt" "$(number accuracy)" 0.8
expect "eval dumps logits" 0 "$adder" eval --model full/model --data mnist:digits --split test \
  --dump-logits logits.safetensors
has "logits and labels" '"labels"' logits.safetensors
refuse "a dump that cannot be written" 3 "none" "$adder" eval --model full/model --data mnist:digits \
  --dump-logits none/logits.safetensors
expect "eval as text" 0 "$adder" eval --model full/model --data mnist:digits --max-examples 5
has "eval names the split" "mnist val"
expect "eval of a model with batch norm" 0 "$adder" eval --model batch/model --data mnist:digits --json
all_together=$(number loss)
# Evaluation takes the running statistics, so an example's result does not depend on its batch.
expect "eval in other batches" 0 "$adder" eval --model batch/model --data mnist:digits --batch-size 3 --json
if awk -v a="$all_together" -v b="$(number loss)" 'BEGIN { d = a - b; exit !(a > 0 && d * d <= 1e-10 * a * a) }'; then
  pass "batches do not matter"
else
  fail "batches do not matter" "$all_together and $(number loss)"
fi

# ------------------------------------------------------------------------- adapter, merge, info
expect "info of an adapter" 0 "$adder" info lora/adapter --model base
has "the share that trains" "%)"
expect "eval of the base model" 0 "$adder" eval --model base --data mnist:digits --json
without=$(number loss)
for method in lora sdt batch-lora; do
  model=base
  [ "$method" = batch-lora ] && model=stack
  expect "$method: eval with the adapter" 0 \
    "$adder" eval --model $model --adapter $method/adapter --data mnist:digits --json
  with=$(number loss)
  expect "$method: merge" 0 "$adder" merge --model $model --adapter $method/adapter --out merged-$method
  expect "$method: eval of the merged model" 0 "$adder" eval --model merged-$method --data mnist:digits --json
  merged=$(number loss)
  if awk -v a="$with" -v b="$merged" 'BEGIN { d = a - b; exit !(a > 0 && d * d <= 1e-10 * a * a) }'; then
    pass "$method: merging changes nothing"
  else
    fail "$method: merging changes nothing" "$with and $merged"
  fi
  [ "$without" != "$with" ] && pass "$method: the adapter does something" || fail "$method: the adapter does something"
done
model=base
has "the warm-up is in the log" '"phase":"warm-up"' sdt/log.jsonl
has "… with its own learning rate" '"lr":0.01,' sdt/log.jsonl
expect "info of selected dimensions" 0 "$adder" info sdt/adapter --model base
has "channels and states" "channel: states"
# The rule tries the dimensions out on batches of the run, without a step.
steps=4 run ablation --peft ablation.json >/dev/null || fail "the ablation rule" "$(tail -n 3 stderr.log)"
has "the ablation rule takes no steps" '"warm_up_steps": 0' ablation/summary.json

# --------------------------------------------------------------------------------- synthetic-s4
synthetic() {
  "$adder" train --model theory --data synthetic-s4 --data-option length=20 --steps 8 --log-every 2 \
    --lr 0.01 --threads 1 "$@"
}
expect "synthetic-s4, values" 0 synthetic --out values --json
has "the smallest loss" '"best_loss"'
absent "no accuracy of values" '"best_accuracy"' out
expect "synthetic-s4, classes" 0 synthetic --out classes --data-option task=classification --json
has "the largest accuracy" '"best_accuracy"'
has "the log has both" '"best_accuracy"' classes/log.jsonl
expect "eval on synthetic-s4" 0 "$adder" eval --model values/model --data synthetic-s4 \
  --data-option length=20 --max-examples 32 --json
has "fresh examples" '"examples": 32'
has "mean square error" '"mse"'
expect "another target" 0 synthetic --out other --data-option target_seed=2 --json
[ "$(number best_loss)" != "$(number best_loss values/summary.json)" ] && pass "is another" || fail "is another"

# ----------------------------------------------------------------------------------- bad input
bad_key() { # KEY VALUE TEXT: of the official model's configuration
  refuse "init with $1 $2" 2 "$3" "$adder" init --out x --config \
    <(echo "{\"model_type\": \"s4\", \"d_model\": 6, \"$1\": $2}")
}
bad_key norm '"bach"' "expected one of layer, layer_scalar, batch, instance, group, none"
bad_key norm 3 "'norm' is 3"
bad_key bottleneck 4 "'bottleneck' is 4, which does not divide d_model 6"
bad_key bottleneck '"2"' "expected a whole number"
bad_key gate 0 "'gate' is 0, expected from 1"
bad_key gate_act '"gelu"' "'gate_act' is given without 'gate'"
bad_key mult_act '"glu"' "'mult_act' is"
bad_key activation '"eluu"' "did you mean 'elu'"
bad_key final_act '"id"' "'final_act' is"
bad_key layer '"s5"' "expected one of s4, s4d"
bad_key d_state 7 "expected an even number"
refuse "a key that the minimal S4D has not" 2 "unknown key 'mode'" "$adder" init --out x \
  --config <(echo '{"model_type": "s4", "layer": "s4d", "mode": "diag"}')
train() { "$adder" train --steps 1 --out bad "$@"; }
refuse "a folder without the files" 3 "train-images-idx3-ubyte" train --model base --data mnist:base
refuse "no folder" 3 "nowhere: no such folder" train --model base --data mnist:nowhere
mkdir cut
cp digits/* cut
head -c 5000 digits/train-images-idx3-ubyte >cut/train-images-idx3-ubyte
refuse "a file cut short" 3 "4984 bytes follow the header, which announces 156800" \
  train --model base --data mnist:cut
cp digits/train-labels-idx1-ubyte cut/train-images-idx3-ubyte
refuse "a wrong magic number" 3 "the magic number is 2049" train --model base --data mnist:cut
cp digits/train-images-idx3-ubyte digits/t10k-labels-idx1-ubyte cut
mv cut/t10k-labels-idx1-ubyte cut/train-labels-idx1-ubyte
refuse "counts that differ" 3 "40 labels for the 200 images" train --model base --data mnist:cut
mkdir records
head -c 3072 /dev/zero >records/test_batch.bin
refuse "half a record" 3 "no multiple of the 3073 bytes" \
  "$adder" eval --model base --data cifar10:records --split test
head -c 30730 /dev/zero >records/data_batch_1.bin
refuse "sizes that do not fit" 2 "3 values at each position, the model reads 1" \
  train --model base --data cifar10:records --data-option colour=true
expect "init of a model with three classes" 0 "$adder" init --out three --config <(sed 's/"d_output": 10/"d_output": 3/' s4.json)
refuse "classes that do not fit" 2 "10 classes, the model gives 3 outputs" \
  train --model three --data mnist:digits
refuse "a pooled model on synthetic-s4" 2 "one output for a whole sequence" \
  train --model base --data synthetic-s4
refuse "text for a deep S4" 2 "reads sequences of numbers" train --model base --data text.jsonl
refuse "images for a language model" 2 "is a language model" train --model mamba --data mnist:digits
refuse "evaluating images with a language model" 2 "is a language model" \
  "$adder" eval --model mamba --data mnist:digits
refuse "generate" 2 "is no language model" "$adder" generate --model base --prompt hello
refuse "bf16" 2 "S4 models are float32" train --model base --data mnist:digits --precision bf16
refuse "an unknown option" 2 "did you mean" train --model theory --data synthetic-s4 --data-option lenght=3
[ -e bad ] && fail "a refused run leaves nothing" "$(ls bad)" || pass "a refused run leaves nothing"
cp -r base broken
head -c 1000 base/model.safetensors >broken/model.safetensors
refuse "a damaged model" 3 "broken/model.safetensors" "$adder" info broken
expect "a loss that is not finite" 5 "$adder" train --model base --data mnist:digits --out inf --lr 1e30 \
  --steps 20 --batch-size 10 --clip 0

finish
