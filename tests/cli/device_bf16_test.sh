#!/usr/bin/env bash
# --precision bf16 on --device cuda, in a build whose device is emulated: training, resuming after a
# kill, what is saved, evaluation and generation.
#
#   device_bf16_test.sh ADDER_BINARY
. "$(dirname "$0")/support.sh"

. "$(dirname "$test")/device_support.sh"

on_device() { local out=$1; shift; start "$out" --device cuda "$@"; }
run() { (on_device "$@") </dev/null; }
# close TOLERANCE LEAST RUN RUN: at least LEAST losses, within the tolerance of each other but not all
# the same.
close() {
  paste -d ' ' <(losses "$3") <(losses "$4") | awk -v tolerance="$1" -v least="$2" '
    NF != 6 || $1 != $4 || $2 != $5 { print "no pair: " $0; bad = 1; next }
    { error = $6 / $3 - 1; if (error < 0) error = -error; if (error > 0) differ = 1
      if (!(error <= tolerance)) { print $0 ": off by " error; bad = 1 } }
    END { if (NR < least) { print NR " lines, expected " least; bad = 1 }
      if (!differ) { print "the very same losses"; bad = 1 } exit bad }'
}
# types FILE TYPE...: the element types in a safetensors file are among these.
types() {
  local file=$1
  shift
  local found
  found=$(grep -ao '"dtype":"[A-Z0-9]*"' "$file" | sort -u | grep -o '[A-Z]*[0-9]*"$' | tr -d '"')
  [ -n "$found" ] || return 1
  for type in $found; do
    case " $* " in *" $type "*) ;; *) echo "$file: $type"; return 1 ;; esac
  done
}
killed() { # OUT LINES OPTIONS: kills a run once its log has so many lines
  local out=$1 lines=$2 pid
  shift 2
  on_device "$out" "$@" >/dev/null 2>&1 &
  pid=$!
  while kill -0 $pid 2>/dev/null; do
    [ -f "$out/log.jsonl" ] && [ "$(wc -l <"$out/log.jsonl")" -ge "$lines" ] && break
    sleep 0.005
  done
  kill -KILL $pid 2>/dev/null
  wait $pid 2>/dev/null
  [ -e "$out/log.jsonl" ] && [ ! -e "$out/summary.json" ]
}

check "LoRA + SDT in float32" run single --peft sdt.json
check "LoRA + SDT in bfloat16" run half --peft sdt.json --precision bf16
# Both select the same dimensions here; a loss of this small model moves by a few parts in a thousand.
check "its losses are those of float32 within 1 %" close 1e-2 17 single half
check "the adapter is float32, beside its lists of indices" \
  types half/adapter/adapter_model.safetensors F32 I32 I64
check "so is what resuming needs" types half/checkpoint-10/training_state.safetensors F32 F64 I32 I64 U8
for lines in 5 11; do # within the warm-up, and after it
  check "killed at log line $lines" killed "killed-$lines" $lines --peft sdt.json --precision bf16
  check "resumed" run "killed-$lines" --peft sdt.json --precision bf16 --resume
  check "ends with the same files" same_files half "killed-$lines"
done
steps=3
check "full fine-tuning in float32" run full-single
check "full fine-tuning in bfloat16" run full-half --precision bf16 --recompute
check "full fine-tuning: losses within 1 %" close 1e-2 4 full-single full-half
check "the saved model is float32" types full-half/model/model.safetensors F32

steps=10
number() { sed -n "s/^ *\"$1\": *\([^,]*\),\{0,1\}$/\1/p" "$2" | head -1; }
for precision in fp32 bf16; do
  check "dry run in $precision" eval "run plan --peft sdt.json --precision $precision --dry-run >plan.$precision"
  check "evaluation in $precision" eval "'$adder' eval --model base --adapter half/adapter --data val.jsonl \
    --no-generation --json --device cuda --precision $precision >eval.$precision"
done
planned() { sed -n 's/^memory_estimate_bytes.activations *//p' "plan.$1" | tr -d ,; }
check "bfloat16 plans less memory for activations" test "$(planned bf16)" -lt "$(planned fp32)"
near() { awk -v a="$1" -v b="$2" 'BEGIN { error = a / b - 1; exit !(a != b && error <= 1e-2 && -error <= 1e-2) }'; }
check "the loss in bfloat16 is that of float32 within 1 %" \
  near "$(number loss eval.bf16)" "$(number loss eval.fp32)"
for how in "" "--num-beams 3" "--temperature 1 --seed 5"; do
  for model in "base" "base --adapter half/adapter"; do
    check "generation in bfloat16 ($model) $how" eval "'$adder' generate --model $model --prompt 'row 7' \
      --max-new-tokens 8 $how --device cuda --precision bf16 >text && test -s text"
  done
done

finish
