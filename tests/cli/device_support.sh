# What the tests of --device cuda share, after support.sh: a tiny model, data, a method, training runs.
cat >config.json <<'JSON'
{"model_type": "mamba", "hidden_size": 12, "num_hidden_layers": 2, "vocab_size": 264,
 "state_size": 4, "intermediate_size": 24, "time_step_rank": 2, "initializer_range": 0.2}
JSON
"$adder" init --config config.json --tokenizer byte --seed 3 --out base >out 2>&1 || { cat out; exit 1; }
for i in $(seq 1 16); do
  printf '{"input": "row %d", "target": " is %d"}\n' "$i" $((i * 7 % 16))
done >data.jsonl
head -n 5 data.jsonl >val.jsonl
cat >sdt.json <<'JSON'
{"peft_type": "SD_LORA", "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
 "num_zero": {"state": 0, "channel": 1}, "num_freeze": {"state": 0.5, "channel": 0.75},
 "proj_lora_r": 2, "proj_lora_dropout": 0.1, "num_warmup_it": 9}
JSON

# Replaces the shell that calls it, so that $! of `start … &` is adder itself.
start() { # OUT, further options
  local out=$1
  shift
  exec "$adder" train --model base --data data.jsonl --val val.jsonl --out "$out" --steps "${steps:-10}" \
    --batch-size 2 --grad-accum 2 --lr 0.01 --eval-every 5 --save-every 3 --log-every 1 --threads 1 "$@"
}
