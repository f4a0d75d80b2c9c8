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
for word in "deep S4" "2 layers" "1 value at each position" "10 values for a sequence" A_imag log_dt float32; do
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
expect "info of an adapter" 0 "$adder" info lora/adapter
for text in "LoRA" "r 2, lora_alpha 2" "target_modules output_linear" "base model  base" "64 of 538 (11.8959 %)" \
  "4 tensors"; do has "info of an adapter says $text" "$text"; done
expect "info of an adapter as JSON" 0 "$adder" info lora/adapter --json
has "its base model" '"base_model": "base"'
expect "info of an adapter whose model is elsewhere" 0 sh -c "cd digits && '$adder' info ../lora/adapter"
has "says so" "base (no such directory here; give --model DIR)"
refuse "info with a model that does not fit" 2 "output_linear" "$adder" info lora/adapter --model mamba
expect "info of a finished run" 0 "$adder" info sdt
for text in "finished: 60 steps after a warm-up of 20 steps" "base model  base" "mnist:digits, 180 examples" "SDT + LoRA" \
  "96 of 538" "10 examples, learning rate 0.02 (linear)" "at step" "at step 60" "sdt/adapter, of the best step"; do
  has "info of a run says $text" "$text"
done
expect "info of a finished run as JSON" 0 "$adder" info full --json
for text in '"finished": true' '"resumable": false' '"method": "all parameters"' '"step": 60' '"best_step"' '"eval_accuracy"'; do
  has "info of a run has $text" "$text"
done
# As if it had been killed: the last line of the log is half a line, and the summary is not there.
mkdir killed killed/checkpoint-56
cp full/config.json killed
grep -m 9 . full/log.jsonl >killed/log.jsonl
printf '{"phase":"tra' >>killed/log.jsonl
cp full/checkpoint-56/training_state.json killed/checkpoint-56
expect "info of a run that was killed" 0 "$adder" info killed
has "says where it is" "not finished: step 56 of 60, to be resumed from checkpoint-56"
has "says how to go on" "adder train --config killed/config.json --out killed --resume"
has "has no result" "none yet"
echo '{"phase": "train"}' >killed/checkpoint-56/training_state.json
refuse "info of a run with a damaged checkpoint" 3 "killed/checkpoint-56/training_state.json" "$adder" info killed
rm -r killed/checkpoint-56
expect "info of a run without a checkpoint" 0 "$adder" info killed --json
has "it cannot be resumed" '"resumable": false'
sed -i '2s/.*/nonsense/' killed/log.jsonl
refuse "info of a run with a damaged log" 3 "killed/log.jsonl:2" "$adder" info killed
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
refuse "learning that diverges" 5 "at step 2 of the train phase" \
  "$adder" train --model base --data mnist:digits --out inf --lr 1e30 --steps 20 --batch-size 10 --clip 0
refuse "an evaluation of diverged weights" 5 "at step 1 of the train phase" "$adder" train --model base \
  --data mnist:digits --out inf1 --lr 1e30 --steps 20 --batch-size 10 --clip 0 --eval-every 1
cp digits/* cut
head -c 100 digits/train-labels-idx1-ubyte >cut/train-labels-idx1-ubyte
refuse "labels cut short" 3 "cut/train-labels-idx1-ubyte:100: 92 bytes follow the header, which announces 200" \
  train --model base --data mnist:cut
head -c 6 digits/train-labels-idx1-ubyte >cut/train-labels-idx1-ubyte
refuse "a header cut short" 3 "cut/train-labels-idx1-ubyte:6: the file ends within its header of 8 bytes" \
  train --model base --data mnist:cut
: >cut/train-images-idx3-ubyte
refuse "an empty file" 3 "cut/train-images-idx3-ubyte:0" train --model base --data mnist:cut
refuse "sequences of no length" 2 'length is "0"' train --model theory --data synthetic-s4 --data-option length=0

# The official model: what its configuration and its tensors must not be.
cat >s4d.json <<'JSON'
{"model_type": "s4", "d_input": 1, "d_output": 10, "d_model": 8, "n_layers": 1, "d_state": 4, "mode": "diag",
 "init": "diag-lin"}
JSON
expect "init makes an S4D" 0 "$adder" init --config s4d.json --out s4d
refuse "half a conjugate pair" 2 "'d_state' is 5, expected an even number" \
  "$adder" init --out x --config <(sed 's/"d_state": 4/"d_state": 5/' s4d.json)
for model in base s4d; do
  rm -rf broken && cp -r $model broken
  sed -i 's/"d_state": *4/"d_state": 6/' broken/config.json
  refuse "$model: tensors of another shape" 3 "kernel.C is [" "$adder" info broken
  has "$model: and the shape that is expected" ", expected [" err
  for value in 'NaN \000\000\300\177' 'infinity \000\000\200\177'; do
    rm -rf broken && cp -r $model broken
    printf "${value#* }" | dd of=broken/model.safetensors conv=notrunc bs=1 \
      seek=$(($(stat -c %s $model/model.safetensors) - 4)) 2>/dev/null
    refuse "$model: ${value%% *} among the weights" 3 "broken/model.safetensors: decoder.bias holds NaN or infinite" \
      "$adder" eval --model broken --data mnist:digits --max-examples 2
  done
done
# Re A is minus an exponential: whatever a file holds, no state grows. A_real of the first mode.
rm -rf broken && cp -r s4d broken
offset=$(head -c 4000 s4d/model.safetensors | grep -aoE 'kernel.A_real":\{[^}]*data_offsets":\[[0-9]+' | grep -oE '[0-9]+$')
header=$(od -An -t u8 -N 8 s4d/model.safetensors)
printf '\000\000\240\100' | dd of=broken/model.safetensors conv=notrunc bs=1 seek=$((8 + header + offset)) 2>/dev/null
cmp -s s4d/model.safetensors broken/model.safetensors && fail "A_real is another" || pass "A_real is another"
expect "a positive A_real is a fast decay" 0 "$adder" eval --model broken --data mnist:digits --max-examples 2
printf '\000\000\200\104' | dd of=broken/model.safetensors conv=notrunc bs=1 seek=$((8 + header + offset)) 2>/dev/null
refuse "an A that is not finite" 5 "mode 0 of channel 0 has A = -inf" \
  "$adder" eval --model broken --data mnist:digits --max-examples 2

# Resuming with a model of other shapes.
cp -r full resumed && rm resumed/summary.json
"$adder" init --config <(sed 's/"d_model": 8/"d_model": 12/' s4.json) --out wide >/dev/null 2>&1
refuse "a checkpoint of another model" 3 "model.safetensors: encoder.weight is [8, 1], expected [12, 1]" \
  "$adder" train --model wide --data mnist:digits --out resumed --steps 60 --batch-size 10 --resume

# Writes that fail half way, as on a full disk: files may not grow beyond 8 KiB.
small() { (ulimit -f 8; exec "$@"); }
"$adder" init --config <(sed 's/"d_model": 8/"d_model": 96/' s4.json) --out large >/dev/null 2>&1
refuse "a full disk: init" 3 "model.safetensors:8192: cannot write" small "$adder" init --out full-init \
  --config <(sed 's/"d_model": 8/"d_model": 96/' s4.json)
refuse "a full disk: the result of training" 3 "model.safetensors:8192: cannot write" small "$adder" train \
  --model large --data mnist:digits --out full-train --steps 1 --batch-size 2 --max-val-examples 2
refuse "a full disk: a checkpoint" 3 "training_state.safetensors:8192: cannot write" small "$adder" train \
  --model large --data mnist:digits --out full-save --steps 9 --batch-size 2 --skip-eval --save-every 2 --peft lora.json
sed 's/"r": 2/"r": 64/' lora.json >lora64.json
"$adder" train --model large --data mnist:digits --out large-lora --steps 1 --batch-size 2 --peft lora64.json \
  --skip-eval >/dev/null 2>&1
refuse "a full disk: merge" 3 "model.safetensors:8192: cannot write" \
  small "$adder" merge --model large --adapter large-lora/adapter --out full-merge
if [ -e /dev/full ]; then
  refuse "a full disk: logits" 3 "/dev/full" "$adder" eval --model base --data mnist:digits --max-examples 2 \
    --dump-logits /dev/full
fi
for left in full-init full-merge full-train/model full-save/adapter; do
  [ -e $left ] && fail "$left: nothing is left" || pass "$left: nothing is left"
done
find . -name '*partial*' | grep -q . && fail "no temporaries are left" "$(find . -name '*partial*')" || pass "no temporaries are left"

# ------------------------------------------------------------------------- gradient accumulation
"$adder" init --config <(sed 's/"dropout": 0.1/"dropout": 0/' s4.json) --seed 3 --out dry >/dev/null 2>&1
accumulated() { # batch size, batches
  "$adder" train --model dry --data mnist:digits --out "batch-$1" --steps 8 --batch-size "$1" --grad-accum "$2" --lr 0.01 \
    --log-every 1 --skip-eval --threads 1 >/dev/null 2>>stderr.log
  losses "batch-$1"
}
accumulated 10 1 >ten
for split in "5 2" "2 5"; do
  if paste -d ' ' ten <(accumulated $split) | awk '
      { d = $3 - $6; if ($2 != $5 || !(d * d <= 1e-10 * $3 * $3)) wrong = 1 } END { exit wrong || NR != 8 }'; then
    pass "batches of ${split% *} accumulated to 10 learn as batches of 10"
  else
    fail "batches of ${split% *} accumulated to 10 learn as batches of 10" "$(paste -d ' ' ten <(losses "batch-${split% *}"))"
  fi
done

finish
