#!/usr/bin/env bash
# Adapters of the official S4 model from the command line: SDT and low rank on its states are trained,
# killed and resumed, shown, evaluated, merged; what they cannot do is refused with its status.
#
#   s4_official_test.sh ADDER_BINARY
. "$(dirname "$0")/support.sh"

has() { # NAME TEXT [FILE]
  if grep -qF -- "$2" "${3:-out}"; then pass "$1"; else
    fail "$1" "no '$2' in:" "$(head -c 600 "${3:-out}")"
  fi
}
close() { # NAME VALUE VALUE: the same but for rounding
  if awk -v a="$2" -v b="$3" 'BEGIN { d = a - b; exit !(a > 0 && d * d <= 1e-10 * a * a) }'; then
    pass "$1"
  else
    fail "$1" "$2 and $3"
  fi
}
# Names, types and shapes in a file of weights.
tensors() { grep -ao '"[A-Za-z0-9_.]*":{"dtype":"[A-Z0-9]*","shape":\[[0-9,]*\]' "$1" | sort; }
config() { # further members
  echo "{\"model_type\": \"s4\", \"d_input\": 4, \"d_output\": 4, \"d_model\": 4, \"n_layers\": 2,
    \"d_state\": 8, \"pooling\": \"none\", \"l_max\": 16 $1}"
}
config ', "channels": 2, "bidirectional": true' >diagonal.json
config ', "n_ssm": 2' >shared.json
config ', "mode": "dplr"' >low_rank.json
config ', "disc": "bilinear"' >bilinear.json
config ', "disc": "dss"' >dss.json
for model in diagonal shared low_rank bilinear dss; do
  expect "init of $model" 0 "$adder" init --config $model.json --seed 3 --out $model
done
cat >sdt.json <<'JSON'
[{"peft_type": "SDT_S4", "select_channels": 3, "update_channels": 2, "select_states": 3,
  "update_states": 2, "warmup_steps": 10, "columns": ["output_linear"],
  "finetune_parameters": ["inv_dt", "D"]},
 {"peft_type": "LORA", "target_modules": ["encoder"], "r": 2, "lora_alpha": 2}]
JSON
cat >lora.json <<'JSON'
{"peft_type": "LORA", "target_modules": ["C", "log_A_real", "A_imag", "output_linear"], "r": 2,
 "lora_alpha": 2}
JSON
loss_rule() { # further members
  echo "{\"peft_type\": \"SDT_S4\", \"rule\": \"loss\" $1}"
}
loss_rule ', "select_channels": 3, "select_states": 2' >select_only.json
loss_rule ', "update_channels": 2, "update_states": 1, "warmup_steps": 0' >update_only.json
loss_rule '' >everything.json

# Replaces the shell that calls it, so that $! of `start … &` is adder itself.
start() { # model, out, method, further options
  local model=$1 out=$2 method=$3
  shift 3
  exec "$adder" train --model "$model" --data synthetic-s4 --data-option length=14 --out "$out" --peft "$method.json" \
    --steps 24 --batch-size 4 --lr 0.01 --log-every 2 --save-every 5 --threads 1 "$@" 2>>stderr.log
}
run() { (start "$@"); }
adapt() { # the same, short
  "$adder" train --data synthetic-s4 --data-option length=14 --steps 3 --batch-size 4 --threads 1 "$@"
}

for method in sdt lora select_only; do
  run diagonal "$method" "$method" >/dev/null || fail "$method: uninterrupted run" "$(tail -n 3 stderr.log)"
  start diagonal "$method-killed" "$method" >/dev/null &
  pid=$!
  target=$((2 + RANDOM % 8))
  kill_at_line "$pid" "$method-killed/log.jsonl" "$target"
  run diagonal "$method-killed" "$method" --resume >/dev/null
  check "$method: killed at log line $target and resumed" same_files "$method" "$method-killed"
  expect "$method: eval with the adapter" 0 "$adder" eval --model diagonal --adapter "$method/adapter" \
    --data synthetic-s4 --data-option length=14 --max-examples 8 --json
  with=$(number mse)
  expect "$method: merge" 0 "$adder" merge --model diagonal --adapter "$method/adapter" --out "merged-$method"
  expect "$method: eval of the merged model" 0 "$adder" eval --model "merged-$method" \
    --data synthetic-s4 --data-option length=14 --max-examples 8 --json
  close "$method: merging changes nothing" "$with" "$(number mse)"
done

# ------------------------------------------------------------------------------------------ info
expect "info of SDT" 0 "$adder" info sdt/adapter --model diagonal
has "what the lines mean" "channel: states that train"
[ "$(grep -c '^layer [01] .*: .* | in use .* | zeroed ' out)" -eq 2 ] && pass "one line a layer" ||
  fail "one line a layer" "$(cat out)"
expect "info of SDT as JSON" 0 "$adder" info sdt/adapter --json
has "the selected channels" '"select_channels"'
has "their states" '"select_states"'
expect "info of low rank" 0 "$adder" info lora/adapter --model diagonal
has "what trains of the model" "%)"

# --------------------------------------------------------------- the rule `loss`, which takes no steps
has "no steps before the selection" '"warm_up_steps": 0' select_only/summary.json
expect "only update counts, warmup_steps 0" 0 adapt --model diagonal --peft update_only.json --out update
has "2 channels of 1 state in 4 kernels and A, two layers" '"trainable_parameters": 40' update/summary.json
expect "… shown" 0 "$adder" info update/adapter
has "everything stays in use" "in use all"
expect "no counts at all" 0 adapt --model diagonal --peft everything.json --out everything
has "all states of all channels" '"trainable_parameters": 320' everything/summary.json
expect "--dry-run of it" 0 adapt --model diagonal --peft everything.json --dry-run
grep -q '^warm_up_forward_passes  *0$' out && pass "… takes no warm-up" || fail "… takes no warm-up" "$(cat out)"
expect "on dss" 0 adapt --model dss --peft update_only.json --out dss-loss

# ------------------------------------------------------------------ low rank beside low-rank matrices
# The data are longer than the 16 that C is stored for: the adapter remembers the 32 it grew to.
expect "low rank on S4 with low rank" 0 "$adder" train --model low_rank --data synthetic-s4 \
  --data-option length=20 --steps 6 --batch-size 4 --lr 0.01 --threads 1 --peft lora.json --out longer
for source in "--model low_rank --adapter longer/adapter" "--model merged-longer"; do
  [ -e merged-longer ] || expect "merge" 0 "$adder" merge --model low_rank --adapter longer/adapter --out merged-longer
  # shellcheck disable=SC2086
  expect "eval with $source" 0 "$adder" eval $source --data synthetic-s4 --data-option length=20 \
    --max-examples 8 --json
  number mse >>values
done
if awk '{ v[NR] = $1 } END { d = v[1] - v[2]; exit !(NR == 2 && v[1] > 0 && d * d <= 1e-10 * v[1] * v[1]) }' values
then pass "both are the same model"; else fail "both are the same model" "$(cat values)"; fi
refuse "an adapter of another length" 2 "stored for length 32, this one's is for 64" \
  "$adder" train --model low_rank --adapter longer/adapter --data synthetic-s4 \
  --data-option length=40 --steps 1 --out bad

# --------------------------------------------------- minimal S4D, bottleneck, gate, no linear map
echo '{"model_type": "s4", "layer": "s4d", "d_input": 4, "d_output": 4, "d_model": 4, "n_layers": 2,
  "d_state": 8, "pooling": "none"}' >minimal.json
config ', "bottleneck": 2, "channels": 2, "norm": "group"' >bottleneck.json
config ', "gate": 2, "gate_act": "silu", "norm": "layer_scalar", "prenorm": true' >gated.json
config ', "final_act": null, "norm": "instance"' >bare.json
variant_sdt() { # counts, columns
  echo "{\"peft_type\": \"SDT_S4\", \"select_channels\": $1, \"update_channels\": 1, \"select_states\": 3,
    \"update_states\": 2, \"rule\": \"gradient\", \"finetune_parameters\": [\"D\"] $2}"
}
variant_sdt 3 ', "columns": ["output_linear"]' >sdt-minimal.json
variant_sdt 2 ', "columns": ["output_linear"]' >sdt-bottleneck.json
variant_sdt 3 ', "columns": ["output_gate"]' >sdt-gated.json
variant_sdt 3 '' >sdt-bare.json
# Of each of two layers: C of the kernels (1 or 2) and A of 2 states, the columns, D.
declare -A trains=([minimal]=$((2 * (4 + 4 + 8 + 4))) [bottleneck]=$((2 * (8 + 4 + 16 + 4)))
  [gated]=$((2 * (4 + 4 + 8 + 4))) [bare]=$((2 * (4 + 4 + 4))))
for model in minimal bottleneck gated bare; do
  expect "init of $model" 0 "$adder" init --config $model.json --seed 3 --out $model
  sed s/output_linear/encoder/ lora.json >lora-$model.json
  [ $model = bare ] || cp lora.json lora-$model.json
  for method in sdt lora; do
    name=$method-$model
    expect "$name" 0 adapt --model $model --peft $name.json --lr 0.01 --out "$name"
    [ $method = lora ] || has "$name: what trains" "\"trainable_parameters\": ${trains[$model]}," "$name/summary.json"
    expect "$name: eval" 0 "$adder" eval --model $model --adapter "$name/adapter" --data synthetic-s4 \
      --data-option length=14 --max-examples 8 --json
    with=$(number mse)
    expect "$name: info" 0 "$adder" info "$name/adapter" --model $model
    expect "$name: merge" 0 "$adder" merge --model $model --adapter "$name/adapter" --out "merged-$name"
    expect "$name: eval of the merged model" 0 "$adder" eval --model "merged-$name" --data synthetic-s4 \
      --data-option length=14 --max-examples 8 --json
    close "$name: merging changes nothing" "$with" "$(number mse)"
  done
  check "$model: the merged model's tensors are the base's" \
    diff <(tensors $model/model.safetensors) <(tensors merged-lora-$model/model.safetensors)
done
expect "info of a bottleneck" 0 "$adder" info bottleneck
has "channels of the model and of a layer" "4 channels (2 in a layer), 8 states"
has "the map of minimal S4D is a convolution" '"s4_layers.1.output_linear.0.weight":{"dtype":"F32","shape":[8,4,1]' \
  merged-lora-minimal/model.safetensors

# An adapter trains on the base's running statistics, so that it has the validation loss without any.
mkdir digits
images digits/train 5
echo '{"model_type": "s4", "layer": "s4d", "d_model": 4, "n_layers": 1, "d_state": 8, "norm": "batch"}' >batch.json
expect "init with batch norm" 0 "$adder" init --config batch.json --seed 3 --out batch
digits() {
  "$adder" train --data mnist:digits --steps 8 --batch-size 5 --lr 0.02 --eval-every 4 --threads 1 "$@"
}
expect "training moves the statistics" 0 digits --model batch --out based
variant_sdt 3 ', "columns": ["output_linear"]' | sed 's/"gradient"/"displacement", "warmup_steps": 4/' >sdt-batch.json
for method in sdt-batch lora; do
  expect "batch norm: $method" 0 digits --model based/model --peft $method.json --out "digits-$method"
  expect "batch norm: eval of $method" 0 "$adder" eval --model based/model --adapter "digits-$method/adapter" \
    --data mnist:digits --json
  close "batch norm: $method has its validation loss" "$(number eval_loss "digits-$method/summary.json")" \
    "$(number loss)"
  tensors "digits-$method/adapter/adapter_model.safetensors" >names
  if [ -s names ] && ! grep -qF running_ names; then
    pass "batch norm: no statistics in $method"
  else
    fail "batch norm: no statistics in $method" "$(cat names)"
  fi
done

# ------------------------------------------------------------------------------------- bad input
refuse "SDT with shared A" 2 "2 rows of A (n_ssm), which its 4 channels (d_model) share" \
  adapt --model shared --peft sdt.json --out bad
expect "low rank with shared A" 0 adapt --model shared --peft lora.json --out shared-lora
refuse "SDT with a low-rank matrix" 2 "low-rank part" adapt --model low_rank --peft sdt.json --out bad
refuse "displacement on dss" 2 "has dss" adapt --model dss --peft sdt.json --out bad
sed 's/"warmup_steps"/"rule": "compat", "warmup_steps"/' sdt.json >compat.json
refuse "compat on bilinear" 2 "has bilinear" adapt --model bilinear --peft compat.json --out bad
sed 's/"warmup_steps": 10/"warmup_steps": 0/' sdt.json >no_steps.json
refuse "displacement without a step" 2 "warmup_steps is 0, expected 1 or more" \
  adapt --model diagonal --peft no_steps.json --out bad
sed 's/"C", /"B", /' lora.json >fixed.json
refuse "low rank on B" 2 "not available on B" adapt --model diagonal --peft fixed.json --out bad
variant_sdt 3 '' >too_many.json
refuse "more channels than a bottleneck leaves" 2 \
  "select_channels is 3, but s4_layers.0.layer has 2 channels (d_model / bottleneck)" \
  adapt --model bottleneck --peft too_many.json --out bad
refuse "a column that is not behind the layer" 2 "the linear map behind s4_layers.0.layer is 'output_gate'" \
  adapt --model gated --peft sdt-minimal.json --out bad
refuse "a column where there is no map" 2 "but no linear map follows s4_layers.0.layer" \
  adapt --model bare --peft sdt-minimal.json --out bad
sed 's/output_linear/output_linaer/' lora.json >misspelt.json
refuse "a misspelt map" 2 "did you mean 'output_linear'?" adapt --model minimal --peft misspelt.json --out bad
refuse "an adapter of another variant" 2 \
  "dimensions selected for s4_layers.0.layer [4, 4] do not fit s4_layers.0 [4, 4]" \
  "$adder" eval --model minimal --adapter sdt-bare/adapter --data synthetic-s4 --data-option length=14
[ -e bad ] && fail "a refused run leaves nothing" "$(ls bad)" || pass "a refused run leaves nothing"
cp -r sdt/adapter cut
head -c 500 sdt/adapter/adapter_model.safetensors >cut/adapter_model.safetensors
refuse "a damaged adapter" 3 "cut/adapter_model.safetensors" "$adder" info cut --model diagonal

finish
