#!/usr/bin/env bash
# Runs every fuzz target for a while, from seeds made of the golden files. New inputs are kept in
# BUILD/corpus, findings in BUILD/findings.
#
#   tests/fuzz/run.sh BUILD_DIRECTORY SECONDS_EACH
#
# Prints one line per target; exits 1 when there is a finding.
set -euo pipefail
build=$(cd "$1" && pwd)
seconds=$2
golden=$(cd "$(dirname "$0")/../golden/data" && pwd)
mkdir -p "$build/corpus" "$build/findings"

# A seed for `target`: what comes on standard input.
seed() {
  mkdir -p "$build/corpus/$1"
  cat >"$build/corpus/$1/seed-$2"
}
seeds() {
  local file name
  for file in "$golden"/bin/*.bin "$golden"/tiny_ssm/*.bin; do
    name=$(basename "$file" .bin)
    { printf '\0' && cat "$file"; } | seed fuzz_torch_bin "$name"
    # The pickle alone, where the file is a zip that the tool can open.
    if command -v unzip >/dev/null; then
      {
        printf '\1'
        unzip -p "$file" '*data.pkl' 2>/dev/null || true
      } | seed fuzz_torch_bin "$name-pickle"
    fi
  done
  for file in "$golden"/*/*.safetensors; do
    seed fuzz_safetensors "$(basename "$(dirname "$file")")" <"$file"
  done
  printf '\0{"input": "a", "target": "b"}\n{"input": "c", "target": ""}\n' | seed fuzz_jsonl pairs
  printf '\0{"text": "some text"}\n\n{"text": "\\u00e9"}\n' | seed fuzz_jsonl text
  printf '\24{"input_ids": [1, 2, 3], "labels": [2, 3, -100]}\n' | seed fuzz_jsonl ids
  printf 'the other \303\251  aaaa<|endoftext|>' | seed fuzz_tokenizer text
  {
    printf '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}, '
    printf '"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "ByteLevel", '
    printf '"add_prefix_space": false, "trim_offsets": true}, "decoder": {"type": "ByteLevel"}, '
    printf '"added_tokens": [{"id": 3, "content": "<|endoftext|>", "special": true}]}\0abab b'
  } | seed fuzz_tokenizer json
}
seeds

status=0
for fuzzer in "$build"/tests/fuzz/fuzz_*; do
  if [ ! -f "$fuzzer" ] || [ ! -x "$fuzzer" ]; then continue; fi
  name=$(basename "$fuzzer")
  mkdir -p "$build/corpus/$name"
  log=$build/$name.log
  if "$fuzzer" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=65536 \
    -artifact_prefix="$build/findings/$name-" "$build/corpus/$name" >"$log" 2>&1; then
    runs=$(sed -n 's/^Done \([0-9]*\) runs.*/\1/p' "$log" | tail -1)
    echo "$name: ok, ${runs:-?} inputs in $seconds s"
  else
    tail -n 40 "$log" >&2
    echo "$name: FINDING, see $log and $build/findings"
    status=1
  fi
done
exit $status
