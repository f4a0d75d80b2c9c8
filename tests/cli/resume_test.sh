#!/usr/bin/env bash
# A run killed with SIGKILL at a random step and resumed ends with the files of the uninterrupted
# run, bit for bit, at any --log-every; the same for Ctrl-C, which writes a checkpoint and exits 130.
#
#   resume_test.sh ADDER_BINARY
. "$(dirname "$0")/support.sh"

cat >config.json <<'JSON'
{"model_type": "mamba", "hidden_size": 24, "num_hidden_layers": 2, "vocab_size": 264, "state_size": 4}
JSON
"$adder" init --config config.json --tokenizer byte --seed 3 --out base >/dev/null 2>&1 || exit 1
for i in $(seq 1 48); do
  printf '{"input": "row %d of the table", "target": "value %d"}\n' "$i" $((i * 7 % 48))
done >data.jsonl
cp data.jsonl val.jsonl
cat >sdt.json <<'JSON'
{"peft_type": "SD_LORA", "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
 "num_zero": {"state": 0, "channel": 1}, "num_freeze": {"state": 0.5, "channel": 0.75},
 "proj_lora_r": 2, "num_warmup_it": 19}
JSON
cat >lora.json <<'JSON'
{"peft_type": "LORA", "target_modules": ["in_proj_x", "out_proj"], "r": 2, "lora_alpha": 4,
 "lora_dropout": 0.1}
JSON

# Replaces the shell that calls it, so that $! of `start … &` is adder itself.
start() { # out, log-every, further options
  local out=$1 every=$2
  shift 2
  exec "$adder" train --model base --data data.jsonl --val val.jsonl --out "$out" --steps 60 --batch-size 4 \
    --grad-accum 2 --eval-every 20 --save-every 7 --log-every "$every" --threads 1 "$@" 2>>stderr.log
}
run() { (start "$@"); }

for method in full lora sdt; do
  options=()
  [ "$method" = full ] || options=(--peft "$method.json")
  run "$method" 5 "${options[@]}" >/dev/null || { echo "FAIL - $method: uninterrupted run"; exit 1; }
  for attempt in 1 2; do
    out=$method-killed-$attempt
    start "$out" 5 "${options[@]}" >/dev/null &
    pid=$!
    target=$((2 + RANDOM % 9))
    kill_at_line "$pid" "$out/log.jsonl" "$target"
    run "$out" 5 --resume "${options[@]}" >/dev/null
    check "$method: killed at log line $target and resumed, attempt $attempt" \
      diff <(fingerprint "$method") <(fingerprint "$out")
    check "$method: the log continues as if nothing had happened, attempt $attempt" \
      diff <(losses "$method") <(losses "$out")
  done
  run "$method-quiet" 13 "${options[@]}" >/dev/null
  check "$method: the same files at another --log-every" \
    diff <(fingerprint "$method") <(fingerprint "$method-quiet")
done

# Ctrl-C.
start stopped 1 --peft sdt.json >/dev/null &
pid=$!
for _ in $(seq 1 2000); do
  [ -f stopped/log.jsonl ] && [ "$(wc -l <stopped/log.jsonl)" -ge 8 ] && break
  sleep 0.005
done
# A background job of a script ignores SIGINT; SIGTERM takes the same path.
kill -TERM "$pid" 2>/dev/null
wait "$pid"
code=$?
check "a terminated run exits with 130 (it gave $code)" test "$code" = 130
run stopped 1 --resume --peft sdt.json >/dev/null
check "a terminated run resumes to the same files" diff <(fingerprint sdt) <(fingerprint stopped)

check "a finished run resumed again changes nothing" run sdt 5 --resume --peft sdt.json
run sdt 5 --peft sdt.json >/dev/null
check "an existing RUN without --resume or --overwrite is refused with 2" test $? = 2

finish
