# What the tests of the commands share. A test sources it first, with the executable as its $1:
# $adder is then its path, and the working directory a fresh one that goes with the shell. Each
# check prints "ok - name" or "FAIL - name"; $failures and $checks count.
set -u
test=$(realpath "$0")
adder=$(realpath "${1:?usage: $0 ADDER_BINARY}")
work=$(mktemp -d "${TMPDIR:-/tmp}/adder-test-XXXXXX")
trap 'chmod -R u+w "$work" 2>/dev/null; rm -rf "$work"' EXIT
cd "$work" || exit 1
unset ADDER_MODELS ADDER_DATA NO_COLOR ADDER_SIMT_ORDER ADDER_SIMT_ASYNC ADDER_SIMT_DEVICES ADDER_SIMT_MEMORY
failures=0
checks=0

pass() { checks=$((checks + 1)); echo "ok - $1"; }
fail() {
  checks=$((checks + 1)); failures=$((failures + 1))
  echo "FAIL - $1"
  [ $# -gt 1 ] && printf '       %s\n' "${@:2}"
}
check() { # NAME COMMAND...
  local name=$1
  shift
  if "$@" >check.log 2>&1; then pass "$name"; else fail "$name" "$(tail -n 8 check.log)"; fi
}

# expect NAME STATUS COMMAND...: runs it; stdout and stderr are left in the files out and err.
expect() {
  local name=$1 status=$2 got
  shift 2
  "$@" >out 2>err </dev/null
  got=$?
  if [ "$got" -eq "$status" ]; then pass "$name"; return 0; fi
  fail "$name" "status $got instead of $status: $*" "$(tail -c 600 err)"
  return 1
}

# refuse NAME STATUS TEXT COMMAND...: fails with the status, nothing on stdout, and one paragraph
# "adder: error: …" on stderr that contains TEXT.
refuse() {
  local name=$1 status=$2 text=$3
  shift 3
  expect "$name" "$status" "$@" || return
  if [ -s out ]; then fail "$name: nothing on stdout" "$(head -c 300 out)"; fi
  if [ "$(grep -c '^adder: error: ' err)" -ne 1 ]; then
    fail "$name: one error paragraph" "$(head -c 600 err)"
  elif ! grep '^adder: error: ' err | grep -qF -- "$text"; then
    fail "$name: names '$text'" "$(head -c 600 err)"
  fi
}

# number KEY [FILE]: the value of a top-level key of one JSON object.
number() { sed -n "s/^ *\"$1\": *\([^,]*\),\{0,1\}$/\1/p" "${2:-out}" | head -1; }

# phase, step and loss of each line of a run's log that has a loss.
losses() {
  sed -n 's/.*"phase":"\([a-z-]*\)","step":\([0-9]*\),.*"\(eval_\)\{0,1\}loss":\([^,}]*\).*/\1 \2 \4/p' \
    "$1/log.jsonl"
}

# A run's files, but for the log, the times and the configuration, which name the run itself.
fingerprint() {
  (cd "$1" && find . -type f ! -name log.jsonl ! -name log_state.json ! -name summary.json \
    ! -name config.json -print0 | sort -z | xargs -0 sha256sum)
}
same_files() { diff <(fingerprint "$1") <(fingerprint "$2") && [ -n "$(fingerprint "$1")" ]; }

finish() {
  echo "$((checks - failures)) of $checks checks passed"
  [ "$failures" -eq 0 ]
  exit
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

# kill_at_line PID LOG N: waits until the process has written N lines of its log, or ended, then
# kills it without warning.
kill_at_line() {
  for _ in $(seq 1 2000); do
    [ -f "$2" ] && [ "$(wc -l <"$2")" -ge "$3" ] && break
    kill -0 "$1" 2>/dev/null || break
    sleep 0.005
  done
  kill -KILL "$1" 2>/dev/null
  wait "$1" 2>/dev/null
}
