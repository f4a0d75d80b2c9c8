#!/usr/bin/env bash
# The commands on --device cuda against the CPU's results, in a build whose device is emulated:
# training with warm-up and selection, resuming, evaluation, generation, memory that runs out.
#
#   device_test.sh ADDER_BINARY
. "$(dirname "$0")/support.sh"

# close TOLERANCE LEAST A B: at least LEAST lines, of the same names, with values within TOLERANCE.
close() {
  paste -d ' ' "$3" "$4" | awk -v tolerance="$1" -v least="$2" '
    NF != 6 || $1 != $4 || $2 != $5 { print "no pair: " $0; bad = 1; next }
    { error = $6 / $3 - 1; if (error < 0) error = -error
      if (!(error <= tolerance)) { print $0 ": off by " error; bad = 1 } }
    END { if (NR < least) { print NR " lines, expected " least; bad = 1 } exit bad }'
}
same_losses() { # TOLERANCE LEAST RUN RUN
  losses "$3" >losses.a
  losses "$4" >losses.b
  close "$1" "$2" losses.a losses.b
}

# ------------------------------------------------------------------------------------------- setup
. "$(dirname "$test")/device_support.sh"

with() { (export "${1?}" && shift && "$@"); }
run() { (start "$@") >out 2>err </dev/null; }
sdt="--peft sdt.json --device cuda"

# ---------------------------------------------------------------------------------------- training
check "LoRA + SDT on the CPU" run cpu --peft sdt.json --device cpu
check "LoRA + SDT on the device" run device $sdt
check "the CPU's losses, warm-up and validation included" same_losses 2e-4 17 cpu device
check "the warm-up is in the log" grep -q '"phase":"warm-up","step":5' device/log.jsonl
check "the selection is in the log" grep -q '"phase":"selection"' device/log.jsonl
for f in summary.json adapter/adapter_config.json adapter/adapter_model.safetensors; do
  [ -s "device/$f" ] && pass "device/$f" || fail "device/$f" "$(ls -R device)"
done
for key in steps warm_up_steps trainable_parameters total_parameters best_step; do
  a=$(number $key cpu/summary.json)
  b=$(number $key device/summary.json)
  [ -n "$a" ] && [ "$a" = "$b" ] && pass "summary: $key" || fail "summary: $key" "$a and $b"
done
for r in cpu device; do
  expect "info of the adapter ($r)" 0 "$adder" info $r/adapter --model base
  mv out info-$r
done
check "the dimensions that the CPU selects" diff info-cpu info-device

# Nothing may depend on the order of threads and blocks, nor on when the device's work is done.
check "a run in reverse order of threads" with ADDER_SIMT_ORDER=reverse run reverse $sdt
check "gives the same files" same_files device reverse
check "a run whose work waits for a synchronisation" with ADDER_SIMT_ASYNC=1 run queued $sdt
check "gives the same files too" same_files device queued

check "full fine-tuning on the CPU" with steps=3 run full-cpu --device cpu
check "full fine-tuning on the device" with steps=3 run full --device cuda
check "full fine-tuning: the CPU's losses" same_losses 2e-4 4 full-cpu full
check "bfloat16 on the device" run half $sdt --precision bf16
check "bfloat16: losses near those of float32" same_losses 3e-2 17 cpu half

# Without accumulation the steps of a shape seen before are recorded and replayed.
one_batch() { # OUT, further options
  "$adder" train --model base --data data.jsonl --batch-size 2 --threads 1 --log-every 1 --no-save --out "$@"
}
for r in cpu cuda; do
  expect "steps of one batch on $r" 0 one_batch one-$r --peft sdt.json --lr 0.01 --steps 16 --device $r
done
check "steps of one batch: the CPU's losses" same_losses 2e-4 21 one-cpu one-cuda

# A device's numbers are looked at a step later: the step they belong to is named all the same.
for r in cpu cuda; do
  refuse "a run that overflows on $r" 5 "at step 2 of the train phase" \
    one_batch blown-$r --lr 1e25 --clip 0 --steps 9 --device $r
  grep -o 'batch of examples [0-9, ]*' err >blown.$r
  [ ! -e blown-$r/model ] && pass "saves nothing on $r" || fail "saves nothing on $r" "$(ls blown-$r)"
done
check "names the same batch" diff blown.cpu blown.cuda

# -------------------------------------------------------------------------------------- resumption
# kill_at SIGNAL LINES OUT OPTIONS: sends the signal once the log has so many lines; the status.
kill_at() {
  local signal=$1 lines=$2 out=$3 pid
  shift 3
  start "$out" "$@" >/dev/null 2>&1 &
  pid=$!
  while kill -0 $pid 2>/dev/null; do
    [ -f "$out/log.jsonl" ] && [ "$(wc -l <"$out/log.jsonl")" -ge "$lines" ] && break
    sleep 0.005
  done
  kill "-$signal" $pid 2>/dev/null
  wait $pid 2>/dev/null
}
for lines in $((2 + RANDOM % 4)) $((8 + RANDOM % 6)); do
  kill_at KILL "$lines" "killed-$lines" $sdt
  [ -e "killed-$lines/summary.json" ] && fail "killed at line $lines" "it had finished"
  check "resumed after a kill at log line $lines" run "killed-$lines" $sdt --resume
  check "ends with the same files" same_files device "killed-$lines"
  check "and the same log" same_losses 0 17 device "killed-$lines"
done
kill_at TERM 7 stopped $sdt
got=$?
[ $got -eq 130 ] && pass "a terminated run exits with 130" || fail "a terminated run exits with 130" "$got"
cp -r stopped moved
check "it resumes" run stopped $sdt --resume
check "to the same files" same_files device stopped
check "it resumes on the CPU" run moved --peft sdt.json --device cpu --resume
check "to losses as close" same_losses 2e-4 17 cpu moved

# ------------------------------------------------------------------------- evaluation, generation
mkdir sst2
printf 'sentence\tlabel\n' | tee sst2/train.tsv >sst2/dev.tsv
for i in $(seq 1 6); do
  printf 'film %d \t%d\n' "$i" $((i % 2)) | tee -a sst2/train.tsv >>sst2/dev.tsv
done
adapter="--model base --adapter device/adapter"
for r in cpu cuda; do
  expect "eval on $r" 0 "$adder" eval $adapter --data val.jsonl --max-new-tokens 5 \
    --predictions texts.$r --dump-logits logits.$r --json --device $r
  echo "eval 0 $(number loss)" >eval.$r
  expect "eval of classes on $r" 0 "$adder" eval $adapter --data sst2:sst2 --split test --json --device $r
  echo "classes 0 $(number loss)" >>eval.$r
  grep -E '"(accuracy|out_of_class|supervised_tokens)"' out >classes.$r
done
check "eval: the CPU's losses" close 2e-4 2 eval.cpu eval.cuda
check "eval: the CPU's texts" diff texts.cpu texts.cuda
check "eval: the CPU's classes" diff classes.cpu classes.cuda
check "eval: logits of the same layout" diff <(strings logits.cpu | head -1) <(strings logits.cuda | head -1)
for how in "" "--temperature 1.5 --seed 5" "--top-k 20 --top-p 0.9 --seed 6" "--num-beams 3" "--precision bf16"; do
  for r in cpu cuda; do
    expect "generate $how on $r" 0 "$adder" generate $adapter --prompt "row 7" --max-new-tokens 8 $how --device $r
    mv out text.$r
  done
  check "generate $how: the CPU's text" diff text.cpu text.cuda
done
expect "merge of what the device trained" 0 "$adder" merge $adapter --out merged
expect "eval of the merged model on the device" 0 "$adder" eval --model merged --data val.jsonl \
  --no-generation --json --device cuda
echo "eval 0 $(number loss)" >eval.merged
head -n 1 eval.cuda >eval.adapter
check "merging changes nothing" close 1e-4 1 eval.adapter eval.merged
expect "selftest on the device" 0 "$adder" selftest --device cuda --json
check "all operations pass" test "$(sed -n 's/^  "passed": \([0-9]*\).*/\1/p' out)" -ge 50
check "and none fails" grep -qE '^  "failed": 0,?$' out
check "selftest says what the emulator leaves out" grep -q "realistic size are left out" err

# ------------------------------------------------------------------------- memory that runs out
peak=$(number peak_memory_bytes device/summary.json)
check "a peak of device memory is reported ($peak)" test "${peak:-0}" -gt 50000
short() { with ADDER_SIMT_MEMORY="$1" "${@:2}"; }
train_to() { (start "$1" $sdt); }
said="asked for [0-9]+ bytes, [0-9]+ bytes are held by tensors, [0-9]+ of [0-9]+ bytes are free"
for bytes in 9000 $((peak / 2)); do
  refuse "out of $bytes bytes of memory" 4 "out of memory on cuda" short $bytes train_to out-of-$bytes
  check "it says what was asked, held and free" grep -qE "$said" err
done
[ -e out-of-9000 ] && fail "a model that does not fit leaves no run" || pass "a model that does not fit leaves no run"
refuse "out of memory: generate" 4 "out of memory on cuda" short 9000 "$adder" generate $adapter --prompt a --device cuda
check "memory of just the peak's size is enough" short "$peak" run enough $sdt
check "and gives the same files" same_files device enough

# ------------------------------------------------------------------------------------ bad requests
for command in "train --model base --data data.jsonl --out x" "eval --model base --data val.jsonl" \
  "generate --model base --prompt a" "selftest"; do
  name=${command%% *}
  refuse "$name on a device that is not there" 4 "no device cuda:99" "$adder" $command --device cuda:99
  refuse "$name without any device" 4 "no device" with ADDER_SIMT_DEVICES=0 "$adder" $command --device cuda
  for device in cuda: cuda:-1 cuda:x cuda0 cuda:100; do
    refuse "$name on $device" 2 "$device" "$adder" $command --device $device
  done
done
[ -e x ] && fail "a refused device leaves no run" || pass "a refused device leaves no run"
expect "a version" 0 "$adder" --version
check "says that the device is emulated" grep -q "CUDA: emulated" out

finish
