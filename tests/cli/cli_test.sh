#!/usr/bin/env bash
# Runs the executable on tiny models, with good and with bad input, and checks outputs and exit
# statuses:   cli_test.sh ADDER_BINARY [PATTERN]
# PATTERN (a shell pattern) limits which sections run; "setup" always runs.
. "$(dirname "$0")/support.sh"
pattern=${2:-*}

# has NAME TEXT [FILE]: the file (default: out) contains the text.
has() {
  if grep -qF -- "$2" "${3:-out}"; then pass "$1"; else
    fail "$1" "no '$2' in:" "$(head -c 600 "${3:-out}")"
  fi
}
same() { if cmp -s "$2" "$3"; then pass "$1"; else fail "$1" "$2 and $3 differ"; fi; }
section() { case $1 in $pattern) return 0 ;; esac; return 1; }

# ------------------------------------------------------------------------------------------- setup
# What is said of a device that is not there depends on the build.
no_device="no device cuda:99"
"$adder" --version | grep -q "CUDA: not in this build" && no_device="no CUDA"

cat >config.json <<'JSON'
{"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 264,
 "state_size": 4, "conv_kernel": 4, "expand": 2, "intermediate_size": 32, "time_step_rank": 2,
 "tie_word_embeddings": true, "initializer_range": 0.2}
JSON
cat >lora.json <<'JSON'
{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "lora_dropout": 0.0,
 "target_modules": ["in_proj_x", "out_proj", "x_proj_B"]}
JSON
cat >sdt.json <<'JSON'
{"peft_type": "SD_LORA", "target_modules": ["A_log", "x_proj_B", "x_proj_C", "out_proj"],
 "num_warmup_it": 2, "proj_lora_r": 2, "num_zero": {"state": 0, "channel": 1},
 "num_freeze": {"state": 0.5, "channel": 0.75}}
JSON
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
  echo "{\"input\": \"question $i:\", \"target\": \" answer $((i * 7))\"}"
done >pairs.jsonl
printf '{"text": "the quick brown fox"}\n{"text": "jumps over the lazy dog"}\n' >text.jsonl
printf '{"input_ids": [5, 6, 7, 8], "labels": [-100, 7, 8, 9]}\n{"input_ids": [1, 2, 3], "labels": [2, 3, 4]}\n' >ids.jsonl
expect "init makes a model" 0 "$adder" init --config config.json --tokenizer byte --seed 1 --out m
has "init says how large it is" "parameters"
for f in config.json model.safetensors tokenizer.json; do
  [ -s "m/$f" ] && pass "init writes $f" || fail "init writes $f"
done

# ------------------------------------------------------------------------------------------- usage
if section usage; then
  expect "--version" 0 "$adder" --version
  for word in "adder 0." "compiler:" "BLAS:" "SIMD:" "threads:" "CUDA:"; do
    has "--version names $word" "$word"
  done
  # GCC's OpenMP spins too long on a busy machine, unless its user wants that.
  waits() { (unset OMP_WAIT_POLICY GOMP_SPINCOUNT; OMP_DISPLAY_ENV=verbose env "$@" "$adder" --version 2>&1) |
    sed -n "s/.*GOMP_SPINCOUNT = '\([0-9]*\)'.*/\1/p" | tail -n 1; }
  if [ -n "$(waits A=b)" ]; then
    [ "$(waits A=b)" = 1000 ] && pass "threads wait briefly" || fail "threads wait briefly" "$(waits A=b)"
    [ "$(waits GOMP_SPINCOUNT=77)" = 77 ] && pass "or as long as is asked for" || fail "or as long as is asked for"
    [ "$(waits OMP_WAIT_POLICY=passive)" = 0 ] && pass "or not at all" || fail "or not at all"
  fi
  expect "--help" 0 "$adder" --help
  cp out help
  for command in init train eval generate merge info tokenize selftest; do
    has "--help lists $command" "  $command " help
    expect "$command --help" 0 "$adder" $command --help
    has "$command --help has an example" "adder $command "
    refuse "$command with an unknown option" 2 "unknown option --nonsense" "$adder" $command --nonsense
  done
  refuse "no command" 2 "a command is needed" "$adder"
  refuse "an unknown command" 2 "did you mean 'train'?" "$adder" trian
  expect "train --help after the fact" 0 "$adder" train --help
  refuse "a mistyped option" 2 "did you mean '--batch-size'?" "$adder" train --batchsize 3
  refuse "a missing value" 2 "--seed" "$adder" init --config config.json --out x --seed
  refuse "a value of the wrong kind" 2 "--seed" "$adder" init --config config.json --out x --seed one
  refuse "a missing required option" 2 "--out" "$adder" init --config config.json
  refuse "an unexpected argument" 2 "stray" "$adder" init stray --config config.json --out x
fi

# -------------------------------------------------------------------------------------------- init
if section init; then
  expect "init again" 0 "$adder" init --config config.json --tokenizer byte --seed 1 --out m1
  same "a seed gives one model" m/model.safetensors m1/model.safetensors
  expect "init with another seed" 0 "$adder" init --config config.json --seed 2 --out m2 --json
  has "init --json" '"parameters":'
  cmp -s m/model.safetensors m2/model.safetensors && fail "seeds differ" || pass "seeds differ"
  [ -e m2/tokenizer.json ] && fail "no tokenizer unless asked" || pass "no tokenizer unless asked"
  expect "init copies a tokenizer" 0 "$adder" init --config config.json --tokenizer m/tokenizer.json --out m3
  same "the same tokenizer" m/tokenizer.json m3/tokenizer.json
  expect "init from an original configuration" 0 "$adder" init --out m4 --config <(echo '{"d_model": 8,
    "n_layer": 1, "vocab_size": 61, "ssm_cfg": {}, "rms_norm": true, "residual_in_fp32": true,
    "fused_add_norm": true, "pad_vocab_size_multiple": 8}')
  refuse "init into an existing directory" 2 "m: exists already" "$adder" init --config config.json --out m
  refuse "init without its configuration" 3 "none.json" "$adder" init --config none.json --out x
  refuse "init from no JSON" 2 "JSON" "$adder" init --config <(echo '{"hidden_size": ') --out x
  refuse "init of another architecture" 2 "llama" "$adder" init --out x \
    --config <(echo '{"model_type": "llama", "hidden_size": 8}')
  refuse "init with too small a vocabulary" 2 "257" "$adder" init --tokenizer byte --out x \
    --config <(sed 's/264/100/' config.json)
  echo '{' >tok.json
  refuse "init with a broken tokenizer" 3 "tok.json" "$adder" init --config config.json --out x --tokenizer tok.json
  mkdir -p blocked && chmod a-w blocked
  if [ "$(id -u)" -ne 0 ]; then
    refuse "init where nothing can be written" 3 "blocked" "$adder" init --config config.json --out blocked/m
  fi
  refuse "init below a file" 3 "config.json/m" "$adder" init --config config.json --out config.json/m
  [ -e x ] && fail "a failure leaves nothing" || pass "a failure leaves nothing"
  ls -A | grep -q partial && fail "no temporaries are left" "$(ls -A)" || pass "no temporaries are left"
fi

# ---------------------------------------------------------------------------------------- tokenize
if section tokenize; then
  printf '"Hello"\n"h\\u00e9 \\ud83d\\ude00"\n""\n' >strings
  "$adder" tokenize --tokenizer byte <strings >ids 2>err
  [ $? -eq 0 ] && pass "tokenize" || fail "tokenize" "$(cat err)"
  [ "$(head -1 ids)" = "[73,102,109,109,112]" ] && pass "byte ids" || fail "byte ids" "$(cat ids)"
  [ "$(tail -1 ids)" = "[]" ] && pass "an empty string" || fail "an empty string"
  "$adder" tokenize --tokenizer m --decode <ids >back 2>err
  [ "$(cat back)" = "$(printf '"Hello"\n"hé 😀"\n""')" ] && pass "decode undoes it" || fail "decode undoes it" "$(cat back err)"
  bad_line() { # NAME TEXT INPUT FLAGS...
    local name=$1 text=$2 input=$3 status
    shift 3
    printf '%b' "$input" | "$adder" tokenize --tokenizer byte "$@" >out 2>err
    status=$?
    if [ $status -eq 3 ] && grep -qF -- "$text" err; then pass "$name"; else
      fail "$name" "status $status" "$(cat err)"
    fi
  }
  bad_line "a line that is no JSON" "stdin:2: not JSON" '"a"\nnonsense\n'
  has "lines before it are answered" "[98]"
  bad_line "a line that is no string" "stdin:1: a JSON string" '[1]\n'
  bad_line "an empty line" "stdin:2:" '"a"\n\n'
  bad_line "half a string" "stdin:1: not JSON" '"a'
  bad_line "bytes that are not UTF-8" "stdin:1: not JSON" '"\xff"\n'
  bad_line "ids that are no array" "stdin:1: a JSON array" '"a"\n' --decode
  bad_line "an id beyond the vocabulary" "stdin:2: 257" '[1]\n[257]\n' --decode
  bad_line "a negative id" "stdin:1: -1" '[-1]\n' --decode
  bad_line "a huge id" "18446744073709551615" '[18446744073709551615]\n' --decode
  bad_line "a fractional id" "1.5" '[1.5]\n' --decode
  refuse "tokenize without the file" 3 "nothing.json" "$adder" tokenize --tokenizer nothing.json
fi

# -------------------------------------------------------------------------------------------- info
if section info; then
  expect "info" 0 "$adder" info m
  for word in "Mamba-1, 2 layers" "parameters" "in_proj" "A_log" "float32" "KiB"; do has "info shows $word" "$word"; done
  expect "info --json" 0 "$adder" info m --json
  total=$(number parameters)
  [ "${total:-0}" -gt 1000 ] && pass "a number of parameters" || fail "a number of parameters" "$total"
  has "roles in JSON" '"x_proj":'
  has "dtypes in JSON" '"float32":'
  refuse "info of nothing" 3 "nothing" "$adder" info nothing
  mkdir -p empty
  refuse "info of an empty directory" 3 "empty" "$adder" info empty
fi

# ---------------------------------------------------------------------------------------- generate
if section generate; then
  expect "generate" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 8
  has "the rate goes to stderr" "tokens/s" err
  cp out greedy
  expect "generate again" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 8
  same "greedy is repeatable" greedy out
  printf 'Hello' >prompt.txt
  expect "a prompt from a file" 0 "$adder" generate --model m --prompt-file prompt.txt --max-new-tokens 8
  same "gives the same" greedy out
  expect "generate --json" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 8 --json
  for key in text ids prompt_tokens new_tokens ended tokens_per_s; do has "JSON has $key" "\"$key\":"; done
  [ "$(number prompt_tokens)" = 5 ] && pass "five prompt tokens" || fail "five prompt tokens"
  expect "beam search" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 6 --num-beams 3 --json
  has "a beam score" '"score":'
  expect "top-k 1 is greedy" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 8 --top-k 1
  same "top-k 1 is greedy: text" greedy out
  expect "sampling" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 30 --temperature 2 --seed 5
  cp out first
  expect "sampling again" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 30 --temperature 2 --seed 5
  same "a seed gives one text" first out
  expect "sampling with another seed" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 30 --temperature 2 --seed 6
  cmp -s first out && fail "seeds differ" || pass "seeds differ"
  expect "top-p" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 5 --top-p 0.5
  expect "an empty prompt starts after the end mark" 0 "$adder" generate --model m --prompt "" --max-new-tokens 3
  expect "bf16 storage" 0 "$adder" generate --model m --prompt "Hello" --max-new-tokens 3 --precision bf16
  refuse "no prompt" 2 "--prompt" "$adder" generate --model m
  refuse "two prompts" 2 "--prompt" "$adder" generate --model m --prompt a --prompt-file prompt.txt
  refuse "a prompt file that is absent" 3 "nofile" "$adder" generate --model m --prompt-file nofile
  refuse "no tokens wanted" 2 "max_new_tokens" "$adder" generate --model m --prompt a --max-new-tokens 0
  refuse "top-p above 1" 2 "top_p" "$adder" generate --model m --prompt a --top-p 2
  refuse "a model that is absent" 3 "nomodel" "$adder" generate --model nomodel --prompt a
  "$adder" init --config config.json --out bare >/dev/null 2>&1
  refuse "no tokenizer" 2 "--tokenizer" "$adder" generate --model bare --prompt a
  expect "--tokenizer byte" 0 "$adder" generate --model bare --prompt a --tokenizer byte --max-new-tokens 2
  refuse "a CUDA device" 4 "$no_device" "$adder" generate --model m --prompt a --device cuda:99
  refuse "an unknown device" 2 "tpu" "$adder" generate --model m --prompt a --device tpu
  refuse "an unknown precision" 2 "fp8" "$adder" generate --model m --prompt a --precision fp8
fi

# ------------------------------------------------------------------------------------- broken models
if section broken; then
  copy() { rm -rf broken && cp -r m broken; }
  copy; head -c 100 m/model.safetensors >broken/model.safetensors
  refuse "truncated weights" 3 "model.safetensors" "$adder" info broken
  copy; head -c -4 m/model.safetensors >broken/model.safetensors
  refuse "weights four bytes short" 3 "model.safetensors" "$adder" info broken
  copy; printf '\377\377\377\377\377\377\377\177' | dd of=broken/model.safetensors conv=notrunc 2>/dev/null
  refuse "a header that claims too much" 3 "model.safetensors" "$adder" info broken
  copy; printf '\000\000\300\177' | dd of=broken/model.safetensors conv=notrunc bs=1 seek=$(($(stat -c %s m/model.safetensors) - 4)) 2>/dev/null
  refuse "a NaN among the weights" 3 "NaN" "$adder" generate --model broken --prompt a
  copy; rm broken/model.safetensors
  refuse "weights that are absent" 3 "broken" "$adder" info broken
  copy; sed -i 's/"hidden_size": *16/"hidden_size": 24/' broken/config.json
  refuse "a shape that disagrees" 3 "expected" "$adder" info broken
  copy; sed -i 's/"num_hidden_layers": *2/"num_hidden_layers": 3/' broken/config.json
  refuse "a tensor that is missing" 3 "backbone.layers.2" "$adder" info broken
  copy; echo '{' >broken/config.json
  refuse "a configuration that is no JSON" 2 "config.json" "$adder" info broken
  copy; head -c 500 m/tokenizer.json >broken/tokenizer.json
  refuse "a truncated tokenizer" 3 "tokenizer.json:" "$adder" generate --model broken --prompt a
fi

# -------------------------------------------------------------------------------------------- eval
if section eval; then
  expect "eval of pairs" 0 "$adder" eval --model m --data pairs.jsonl --max-new-tokens 6
  for key in loss perplexity exact_match bleu; do has "eval shows $key" "$key"; done
  expect "eval --json" 0 "$adder" eval --model m --data pairs.jsonl --no-generation --json
  loss=$(number loss)
  case $loss in [0-9]*) pass "a loss" ;; *) fail "a loss" "$loss" ;; esac
  grep -q '"bleu"' out && fail "--no-generation decodes nothing" || pass "--no-generation decodes nothing"
  expect "eval with batches of one" 0 "$adder" eval --model m --data pairs.jsonl --no-generation --json --batch-size 1
  [ "$(number loss | cut -c1-6)" = "$(echo "$loss" | cut -c1-6)" ] && pass "batches make no difference" || fail "batches make no difference" "$loss $(number loss)"
  expect "eval of texts" 0 "$adder" eval --model m --data text.jsonl --json
  "$adder" init --config config.json --out bare1 >/dev/null 2>&1
  expect "eval of ids without a tokenizer" 0 "$adder" eval --model bare1 --data ids.jsonl --dump-logits l.safetensors --json
  [ "$(number supervised_tokens)" = 6 ] && pass "six supervised tokens" || fail "six supervised tokens"
  [ "$(head -c 2000 l.safetensors | grep -aoF '"shape":[2,4,264]' | head -1)" ] && pass "logits (2, 4, 264)" || fail "logits (2, 4, 264)" "$(head -c 300 l.safetensors)"
  printf 'some words to read, and some more of them\n' >plain.txt
  expect "eval of plain text" 0 "$adder" eval --model m --data plain.txt --max-length 16
  expect "predictions" 0 "$adder" eval --model m --data pairs.jsonl --max-new-tokens 4 --predictions p.jsonl
  [ "$(wc -l <p.jsonl)" = 12 ] && pass "one line each" || fail "one line each"
  refuse "data that is absent" 3 "no.jsonl" "$adder" eval --model m --data no.jsonl
  refuse "an unknown data set" 2 "sst3" "$adder" eval --model m --data sst3:folder
  refuse "a data set's missing folder" 3 "nofolder" "$adder" eval --model m --data sst2:nofolder
  : >empty.jsonl
  refuse "an empty data file" 3 "empty.jsonl" "$adder" eval --model m --data empty.jsonl
  printf '{"text": "a b"}\nnot json\n' >bad.jsonl
  refuse "a line that is no JSON" 3 "bad.jsonl:2" "$adder" eval --model m --data bad.jsonl
  printf '{"input_ids": [5, 999], "labels": [6, 7]}\n' >range.jsonl
  refuse "ids outside the vocabulary" 3 "999" "$adder" eval --model m --data range.jsonl
  printf '{"input_ids": [5, 6], "labels": [6]}\n' >uneven.jsonl
  refuse "labels that do not align" 3 "uneven.jsonl:1" "$adder" eval --model m --data uneven.jsonl
  refuse "a target that is too long" 3 "pairs.jsonl:1" "$adder" eval --model m --data pairs.jsonl --max-length 5
  refuse "text without a tokenizer" 2 "tokenizer" "$adder" eval --model bare1 --data text.jsonl
  refuse "a batch size of nothing" 2 "--batch-size" "$adder" eval --model m --data pairs.jsonl --batch-size 0
  refuse "an unknown data option" 2 "instruktion" "$adder" eval --model m --data pairs.jsonl --data-option instruktion=x
  refuse "logits where nothing can be written" 3 "nodir" "$adder" eval --model bare1 --data ids.jsonl --dump-logits nodir/l.safetensors
fi

# ------------------------------------------------------------------------------------ broken outputs
if section output; then
  if [ -e /dev/full ]; then
    for command in "--version" "--help" "info m" "info m --json" "train --help" "generate --model m --prompt a --max-new-tokens 3"; do
      "$adder" $command >/dev/full 2>err </dev/null
      got=$?
      if [ $got -eq 3 ] && grep -q '^adder: error: stdout' err; then pass "a full disk: $command"; else fail "a full disk: $command" "status $got" "$(cat err)"; fi
    done
    yes '"many words on every line"' | head -20000 | "$adder" tokenize --tokenizer byte >/dev/full 2>err
    [ ${PIPESTATUS[2]} -eq 3 ] && pass "a full disk: tokenize" || fail "a full disk: tokenize" "$(cat err)"
  fi
  "$adder" info m >&- 2>err
  got=$?
  [ $got -eq 3 ] && pass "a closed stdout" || fail "a closed stdout" "status $got" "$(cat err)"
  { yes '"many words on every line"' | head -50000 | "$adder" tokenize --tokenizer byte 2>err; echo $? >status; } | head -1 >/dev/null
  [ "$(cat status)" = 3 ] && pass "a reader that goes away" || fail "a reader that goes away" "status $(cat status)" "$(cat err)"
  "$adder" info nothing >out 2>&- </dev/null
  [ $? -eq 3 ] && pass "a closed stderr" || fail "a closed stderr"
fi

# ------------------------------------------------------------------------------------------- train
if section train; then
  flags="--model m --data pairs.jsonl --batch-size 2 --log-every 1"
  expect "train with LoRA" 0 "$adder" train $flags --peft lora.json --out run --steps 6 --lr 0.01
  for f in config.json log.jsonl summary.json adapter/adapter_config.json adapter/adapter_model.safetensors; do
    [ -s "run/$f" ] && pass "run/$f" || fail "run/$f" "$(ls -R run)"
  done
  has "the log has losses" '"loss"' run/log.jsonl
  refuse "an existing run" 2 "--overwrite" "$adder" train $flags --peft lora.json --out run --steps 6
  expect "--overwrite" 0 "$adder" train $flags --peft lora.json --out run --steps 6 --lr 0.01 --overwrite --json
  has "train --json gives the summary" "{"
  expect "train from its own configuration" 0 "$adder" train --config run/config.json --out run2
  same "gives the same adapter" run/adapter/adapter_model.safetensors run2/adapter/adapter_model.safetensors
  expect "SDT with LoRA" 0 "$adder" train $flags --peft sdt.json --out sdt --steps 6 --lr 0.01
  expect "full fine-tuning" 0 "$adder" train $flags --out full --steps 3 --val pairs.jsonl --eval-every 2
  [ -s full/model/model.safetensors ] && pass "a model results" || fail "a model results" "$(ls -R full)"
  expect "eval of an adapter" 0 "$adder" eval --model m --adapter run/adapter --data pairs.jsonl --no-generation --json
  with_adapter=$(number loss)
  expect "merge" 0 "$adder" merge --model m --adapter run/adapter --out merged
  expect "eval of the merged model" 0 "$adder" eval --model merged --data pairs.jsonl --no-generation --json
  [ "$(number loss | cut -c1-6)" = "$(echo "$with_adapter" | cut -c1-6)" ] && pass "merging changes nothing" || fail "merging changes nothing" "$with_adapter $(number loss)"
  expect "merge of SDT" 0 "$adder" merge --model m --adapter sdt/adapter --out merged2 --json
  refuse "merge into an existing directory" 2 "merged: exists" "$adder" merge --model m --adapter run/adapter --out merged
  refuse "merge without an adapter there" 3 "noadapter" "$adder" merge --model m --adapter noadapter --out x
  refuse "merge of a truncated adapter" 3 "adapter_model" "$adder" merge --model m --out x --adapter \
    "$(rm -rf cut && cp -r run/adapter cut && head -c 60 run/adapter/adapter_model.safetensors >cut/adapter_model.safetensors && echo cut)"
  echo '{"peft_type": "BITFIT", "target_modules": ["in_proj"]}' >bitfit.json
  expect "BitFit with new biases" 0 "$adder" train $flags --peft bitfit.json --out bitfit --steps 2
  refuse "an adapter that cannot be merged" 2 "cannot be merged" "$adder" merge --model m --adapter bitfit/adapter --out x
  [ -e x ] && fail "a failed merge leaves nothing" || pass "a failed merge leaves nothing"
  expect "info of an adapter" 0 "$adder" info run/adapter --model m
  has "its method" "LoRA"
  has "its share" "%"
  has "its base model" "base model  m"
  expect "info of a run" 0 "$adder" info run
  for text in "finished: 6 steps" "pairs.jsonl, 12 examples" "LoRA" "2 examples, learning rate 0.01"; do
    has "info of a run says $text" "$text"
  done
  expect "info of SDT" 0 "$adder" info sdt/adapter --model m
  has "the selected dimensions" "layer 1"
  expect "info of SDT as JSON" 0 "$adder" info sdt/adapter --model m --json
  for key in channels states percent trainable; do has "JSON has $key" "\"$key\":"; done
  expect "generate with an adapter" 0 "$adder" generate --model m --adapter sdt/adapter --prompt "question 1:" --max-new-tokens 4

  expect "bf16 storage with an adapter" 0 "$adder" generate --model m --adapter sdt/adapter --prompt a --max-new-tokens 4 --precision bf16

  expect "a dry run" 0 "$adder" train $flags --peft lora.json --lr 0.5 --dry-run --json
  has "shows the learning rate" '"lr": 0.5'
  has "shows the trainable parameters" '"trainable_parameters"'
  echo '{"lr": 0.25, "batch-size": 3}' >c.json
  expect "a configuration file" 0 "$adder" train --config c.json --model m --data pairs.jsonl --dry-run --json
  has "sets what it names" '"batch_size": 3'
  has "and its learning rate" '"lr": 0.25'
  expect "a flag" 0 "$adder" train --config c.json --lr 0.125 --model m --data pairs.jsonl --dry-run --json
  has "beats the file" '"lr": 0.125'
  printf 'model: state-spaces/tiny\ndata: pairs.jsonl\npeft: lora.json\nprec: fp32\nlearning_rate: 1e-3\nnum_epochs: 1\n' >e.yaml
  refuse "a published model's name" 2 "ADDER_MODELS" "$adder" train --config e.yaml --dry-run
  expect "found by --model" 0 "$adder" train --config e.yaml --model m --dry-run --json
  mkdir -p models && cp -r m models/tiny
  expect "found below ADDER_MODELS" 0 env ADDER_MODELS=models "$adder" train --config e.yaml --out yaml-run --steps 2
  [ -s yaml-run/summary.json ] && pass "an experiment file runs" || fail "an experiment file runs"
  sed 's/pairs.jsonl/glue-tvt_mnli/' e.yaml >mnli.yaml
  refuse "a data set that is not available" 2 "mnli" "$adder" train --config mnli.yaml --model m --out x
  echo '{"learning_rte": 1}' >typo.json
  refuse "an unknown key" 2 "typo.json: unknown key" "$adder" train --config typo.json $flags --out x
  echo 'learning_rte: 1' >typo.yaml
  refuse "an unknown key in YAML" 2 "learning_rate" "$adder" train --config typo.yaml $flags --out x
  refuse "a bad learning rate" 2 "--lr is" "$adder" train $flags --out x --lr fast
  refuse "an unknown schedule" 2 "linear" "$adder" train $flags --out x --schedule linaer
  refuse "no model" 2 "--model" "$adder" train --data pairs.jsonl --out x
  refuse "no data" 2 "--data" "$adder" train --model m --out x
  refuse "no output" 2 "--out" "$adder" train --model m --data pairs.jsonl
  refuse "resume and overwrite" 2 "exclude" "$adder" train $flags --out run --resume --overwrite
  echo '{"peft_type": "LORA", "r": 2, "target_modules": ["in_projx"]}' >target.json
  refuse "an unknown target module" 2 "in_proj" "$adder" train $flags --peft target.json --out x --steps 2
  echo '{"peft_type": "LORAX", "r": 2}' >method.json
  refuse "an unknown method" 2 "LORAX" "$adder" train $flags --peft method.json --out x --steps 2
  refuse "an adapter configuration that is absent" 3 "nopeft.json" "$adder" train $flags --peft nopeft.json --out x
  refuse "CUDA" 4 "$no_device" "$adder" train $flags --out x --device cuda:99
  refuse "training data that is empty" 3 "zero.jsonl" "$adder" train --model m --data "$(: >zero.jsonl; echo zero.jsonl)" --out x
  [ -e x ] && fail "a failed start leaves no run" "$(ls x)" || pass "a failed start leaves no run"
  refuse "a loss that is not finite" 5 "step 2" "$adder" train $flags --out nan --steps 60 --lr 1e30 --clip 0

  # Ctrl-C: a checkpoint, status 130, and a resumed run that ends as an undisturbed one does.
  long="$flags --peft lora.json --steps 400 --lr 0.01 --save-every 100 --skip-eval"
  expect "an undisturbed run" 0 "$adder" train $long --out whole
  "$adder" train $long --out broken-run >out 2>err &
  pid=$!
  for _ in $(seq 200); do [ "$(cat broken-run/log.jsonl 2>/dev/null | wc -l)" -gt 20 ] && break; sleep 0.02; done
  kill -INT $pid
  wait $pid
  status=$?
  "$adder" generate --model m --prompt a --max-new-tokens 100000000 >out 2>err &
  pid=$!
  for _ in $(seq 200); do [ -s out ] && break; sleep 0.02; done
  kill -TERM $pid
  wait $pid
  got=$?
  [ $got -eq 130 ] && pass "SIGTERM ends generation with 130" || fail "SIGTERM ends generation with 130" "$got"
  if [ $status -eq 130 ]; then
    pass "Ctrl-C ends with 130"
    ls broken-run | grep -q '^checkpoint-' && pass "after a checkpoint" || fail "after a checkpoint" "$(ls broken-run)"
    expect "--resume" 0 "$adder" train $long --out broken-run --resume
    same "ends with the same adapter" whole/adapter/adapter_model.safetensors broken-run/adapter/adapter_model.safetensors
  else
    fail "Ctrl-C ends with 130" "status $status" "$(tail -3 err)"
  fi

  # Writes that fail half way, as on a full disk: files may not grow beyond 8 KiB.
  small() { (ulimit -f 8; exec "$@"); }
  refuse "a full disk: init" 3 "model.safetensors" small "$adder" init --config config.json --out full-init
  refuse "a full disk: train" 3 "full-train" small "$adder" train $flags --out full-train --steps 4
  refuse "a full disk: merge" 3 "model.safetensors" small "$adder" merge --model m --adapter run/adapter --out full-merge
  for d in full-init full-merge; do
    [ -e $d ] && fail "$d leaves nothing" || pass "$d leaves nothing"
  done
  ls -A | grep -q partial && fail "no temporaries are left" "$(ls -A)" || pass "no temporaries are left"
fi

# ---------------------------------------------------------------------------------------- selftest
if section selftest; then
  expect "selftest of one operation" 0 "$adder" selftest --op rms_norm
  has "a table" "rms_norm"
  expect "selftest --json" 0 "$adder" selftest --op rms_norm --json
  has "a count of passes" '"failed": 0'
  refuse "an unknown operation" 2 "did you mean 'rms_norm'?" "$adder" selftest --op rms_nrm
  refuse "selftest on an absent device" 4 "$no_device" "$adder" selftest --device cuda:99
fi

finish
