#!/usr/bin/env bash
# Everything to do in the first hour on a new GPU, the most important first.
#
#   benchmarks/gpu_session.sh [--dry-run] [--wheels DIR] [--out DIR] [part …]
#
# Parts: info smoke tests sanitize bench profile report; all of them by default. A part of several
# steps can be narrowed to one, such as sanitize:memcheck, bench:sweep, profile:split.
# --dry-run  runs tiny problems on the emulator: it tests the script, and measures no speed
# --wheels   installs the wheels of a folder, offline, for this session only
# --out      folder for all output, by default gpu_session
# PYTHON     the interpreter, by default python3
# TIME_LIMIT seconds for each step, by default 590
#
# Needs neither a network nor an installed cusoftmax. Each step has a log; summary.txt lists the
# outcome of every step, also of earlier sessions in the same folder. A failed step does not stop
# the session.
set -u -o pipefail

PARTS="info smoke tests sanitize bench profile report"
TOOLS="memcheck racecheck synccheck initcheck" # the most important first
# A short run of all suites, then each in full: a report takes the newest measurement of a cell.
SUITES="quick sweep few_rows axis0 overhead range cliffs cold"
PATTERNS="block cluster split group column stream"

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0"; }
fail() {
  echo "gpu_session.sh: error: $*" >&2
  exit 2
}

# known PART or PART:STEP: succeeds if there is such a part.
known() {
  local steps
  case "${1%%:*}" in
    sanitize) steps=$TOOLS ;;
    bench) steps=$SUITES ;;
    profile) steps=$PATTERNS ;;
    *) steps="" ;;
  esac
  case " $PARTS " in *" ${1%%:*} "*) ;; *) return 1 ;; esac
  case "$1" in *:*) case " $steps " in *" ${1#*:} "*) ;; *) return 1 ;; esac ;; esac
}

dry_run=false
wheels=""
out="gpu_session"
asked=()
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=true ;;
    --wheels | --out)
      [ $# -gt 1 ] || fail "$1 needs a folder"
      if [ "$1" = --out ]; then out="$2"; else wheels="$2"; fi
      shift
      ;;
    -h | --help)
      usage
      exit 0
      ;;
    -*) fail "there is no option $1 (see --help)" ;;
    *)
      known "$1" || fail "there is no part $1: $PARTS"
      asked+=("$1")
      ;;
  esac
  shift
done
# Split into words on purpose.
# shellcheck disable=SC2206
[ ${#asked[@]} -gt 0 ] || asked=($PARTS)

mkdir -p "$out" || fail "cannot make the folder $out"
out=$(cd "$out" && pwd)
[ -z "$wheels" ] || wheels=$(cd "$wheels" && pwd) || fail "there is no folder $wheels"
cd "$(dirname "$0")/.." || exit 2

python="${PYTHON:-python3}"
limit="${TIME_LIMIT:-590}"
command -v "$python" > /dev/null || fail "there is no $python: set PYTHON"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 MPLBACKEND=Agg
[ -z "$wheels" ] || export PYTHONPATH="$PWD:$out/site${PYTHONPATH#"$PWD"}"
summary="$out/summary.txt"
failures=0

say() { echo "$*" | tee -a "$summary"; }

# step NAME COMMAND…: run with a time limit, log to NAME.log, record status and time.
step() {
  local name="$1" begun=$SECONDS status result
  shift
  [ ! -t 1 ] || printf '%-22s\r' "$name"
  {
    echo "\$ $*"
    timeout -k 15 "$limit" "$@" < /dev/null
  } > "$out/${name/:/-}.log" 2>&1
  status=$?
  case $status in
    0) result=ok ;;
    124 | 137) result="cut off after $limit s" ;;
    *) result="FAILED ($status)" ;;
  esac
  [ $status -eq 0 ] || failures=$((failures + 1))
  say "$(printf '%-22s %-22s %5d s   %s' "$name" "$result" $((SECONDS - begun)) "$(last_line "$name")")"
}

last_line() { grep -v '^ *$' "$out/${1/:/-}.log" | tail -n 1 | cut -c 1-90; }

# wanted PART STEP: succeeds if all of PART, or PART:STEP, is being run.
wanted() { [ "$part" = "$1" ] || [ "$part" = "$1:$2" ]; }

# Without a GPU its tests would be skipped, and a run of skipped tests would pass.
gpu_is_there="import cupy; assert cupy.cuda.runtime.getDeviceCount() > 0, 'no GPU'"

info() {
  # The inner shell expands the quoted script.
  # shellcheck disable=SC2016
  step info bash -c '
    "$0" -m cusoftmax.cli info
    for tool in nvidia-smi nvcc ncu nsys compute-sanitizer cuobjdump; do
      echo "== $tool: $(command -v "$tool" || echo "not on the PATH")"
    done
    echo "== commit"; git rev-parse HEAD; git status --short
    if command -v nvidia-smi; then nvidia-smi; nvidia-smi -q -d CLOCK,POWER,TEMPERATURE; fi
    uname -a; lscpu; free -g
    "$0" -m pip list 2> /dev/null
    "$0" --version
  ' "$python"
}

pytest() {
  local workers=()
  "$python" -c 'import xdist' 2> /dev/null && workers=(-n "$(workers)")
  echo "$python" -m pytest -q -p no:cacheprovider ${workers[@]+"${workers[@]}"}
}

# Several processes can share the GPU: most of the time is spent in NVRTC, on the CPU.
workers() { local cpus; cpus=$(nproc); echo $((cpus > 8 ? 8 : cpus)); }

smoke() {
  local device=cuda
  $dry_run && device="not cuda"
  step smoke "$python" -m pytest -q -p no:cacheprovider -x -m "$device" tests/test_api.py
}

tests() {
  local command
  read -r -a command < <(pytest)
  if $dry_run; then
    step tests "${command[@]}" -m "not cuda" tests/test_dtypes.py
  else
    step tests "${command[@]}" -m cuda tests
  fi
}

sanitize() {
  local tool options
  if $dry_run; then
    echo "compute-sanitizer needs a GPU: the emulator's own checks, on the same calls"
    step sanitize:emulator "$python" -m benchmarks.sanitize --dry-run
    return
  fi
  command -v compute-sanitizer > /dev/null || {
    say "sanitize               there is no compute-sanitizer on the PATH"
    failures=$((failures + 1))
    return
  }
  for tool in $TOOLS; do
    wanted sanitize "$tool" || continue
    options=(--tool "$tool" --error-exitcode 9)
    # Padding, so that an access beyond an array does not reach the next one. API errors that CuPy
    # provokes and handles itself are not reported; a failed launch still raises.
    [ "$tool" != memcheck ] || options+=(--padding 512 --report-api-errors no)
    step "sanitize:$tool" compute-sanitizer "${options[@]}" "$python" -m benchmarks.sanitize
  done
}

bench() {
  local suite options
  mkdir -p "$out/results"
  for suite in $SUITES; do
    wanted bench "$suite" || continue
    options=(--suite "$suite")
    [ "$suite" != quick ] || options=(--suite all --quick)
    if $dry_run; then
      options+=(--device emulator)
    else  # leave a minute to finish the current cell and save
      options+=(--device cuda --minutes "$(((limit - 60) / 60))")
    fi
    step "bench:$suite" "$python" -m benchmarks.run "${options[@]}" \
      --out "$out/results/$suite.json"
  done
}

# A call of each pattern: operation, shape, dtype, axis; a small shape and a GPU for the dry run.
call_of() {
  case "$1" in
    group) echo "softmax 262144x512 float16 -1 64x512 sm_90" ;;
    block) echo "softmax 32768x4096 float16 -1 4x4096 sm_90" ;;
    cluster) echo "softmax 4096x50257 float16 -1 2x50257 sm_90" ;;
    stream) echo "softmax 128x1048576 float32 -1 8x65536 sm_75" ;;
    split) echo "softmax 1x1048576 float16 -1 1x131072 sm_90" ;;
    column) echo "softmax 4096x32768 float16 0 512x64 sm_90" ;;
  esac
}

profile() {
  local pattern op large dtype axis small arch
  for pattern in $PATTERNS; do
    wanted profile "$pattern" || continue
    read -r op large dtype axis small arch < <(call_of "$pattern")
    if $dry_run; then
      step "profile:$pattern" "$python" -m cusoftmax.cli profile "$op" "$small" \
        --dtype "$dtype" "--axis=$axis" --emulator --arch "$arch"
    else
      step "profile:$pattern" "$python" -m cusoftmax.cli profile "$op" "$large" \
        --dtype "$dtype" "--axis=$axis"
    fi
  done
}

report() {
  local files=("$out"/results/*.json) flags=()
  $dry_run && flags=(--dry-run)
  if [ ! -e "${files[0]}" ]; then
    say "report                 there is no results file: run bench"
    return
  fi
  step report "$python" -m benchmarks.report "${files[@]}" ${flags[@]+"${flags[@]}"} \
    --out "$out/report"
}

say "$(date -u '+%Y-%m-%d %H:%M:%S') UTC: ${asked[*]}"
if $dry_run; then
  say "dry run on the emulator, on tiny problems: times mean nothing"
fi
if [ -n "$wheels" ]; then
  step wheels "$python" -m pip install --quiet --no-index --find-links "$wheels" --no-deps \
    --no-compile --disable-pip-version-check --upgrade --target "$out/site" "$wheels"/*.whl
fi
if ! $dry_run && ! "$python" -c "$gpu_is_there" 2> "$out/gpu.log"; then
  say "CuPy sees no GPU: $(tail -n 1 "$out/gpu.log" | cut -c 1-90) (--dry-run needs none)"
  failures=1
  asked=(info) # its log may show why
fi
for part in "${asked[@]}"; do "${part%%:*}"; done
say "$([ $failures -eq 0 ] && echo "all steps ok" || echo "$failures steps not ok"), $SECONDS s"
echo
cat "$summary"
[ "$failures" -eq 0 ]
