#!/bin/sh
# Builds the fuzzers with clang (the rest of the project is built with g++) and runs each of them.
#
#   tests/fuzz/run.sh BUILD_FOLDER            all fuzzers, 2 minutes of one core together (an hour
#                                             with KHORUS_TEST_SOAK=1; KHORUS_FUZZ_SECONDS
#                                             overrides), two at a time
#   tests/fuzz/run.sh BUILD_FOLDER codec      one of them
#   tests/fuzz/run.sh BUILD_FOLDER --corpus   writes the seeds of tests/fuzz/corpus anew
#
# An input that breaks something is left in BUILD_FOLDER as FUZZER-crash-..., -oom-... or -timeout-...; run
# the fuzzer with that file as its argument to see it again. Exit code 77: there is no clang here.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:?usage: run.sh BUILD_FOLDER [fuzzer]}
fuzzers=${2:-codec config handshake node store}
mkdir -p "$build"

clang=$(command -v clang++-14 || command -v clang++ || true)
if [ -z "$clang" ]; then
  echo "skipped: there is no clang++ here (Debian: clang-14 and libclang-rt-14-dev)"
  exit 77
fi
if ! echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
  "$clang" -fsanitize=fuzzer,address -x c++ - -o "$build/probe" 2>"$build/probe.log"; then
  echo "skipped: $clang cannot link -fsanitize=fuzzer (Debian: libclang-rt-14-dev)"
  exit 77
fi

cd "$root"
flags="-std=c++20 -O1 -g -I. -Icore/include -fno-omit-frame-pointer"
checks="-fsanitize=address,undefined -fno-sanitize-recover=all"
sources="$(ls core/wire/*.cc core/protocol/*.cc) core/base/assert.cc core/base/status.cc
         core/base/types.cc core/base/log.cc core/base/config.cc core/base/config_table.cc
         core/base/knob_value.cc core/base/launcher_place.cc core/base/slurm_lists.cc
         core/net/authentication.cc core/net/key_page.cc
         core/net/frame_seal.cc
         core/net/job_key.cc core/net/mac.cc core/net/store_protocol.cc"

# Objects are made anew when any source or header is newer: nothing finer is worth it here.
mkdir -p "$build/objects"
stamp="$build/objects/stamp"
if [ ! -e "$stamp" ] || [ -n "$(find core tests/fuzz -newer "$stamp" -name '*.[ch]*' | head -1)" ]; then
  echo "$sources" | tr -s ' ' '\n' | xargs -P 2 -I{} sh -c \
    "$clang $flags $checks -fsanitize=fuzzer-no-link -c {} -o $build/objects/\$(echo {} | tr / _).o"
  touch "$stamp"
fi
objects=$(echo "$sources" | tr -s ' ' '\n' | tr / _ | sed "s|^|$build/objects/|; s|\$|.o|")

if [ "$fuzzers" = --corpus ]; then
  # shellcheck disable=SC2086
  "$clang" $flags $checks tests/fuzz/make_corpus.cc $objects -lcrypto -o "$build/make_corpus"
  exec "$build/make_corpus" tests/fuzz/corpus
fi

total=120
[ "${KHORUS_TEST_SOAK:-}" = 1 ] && total=3600
count=$(echo "$fuzzers" | wc -w)
seconds=$((${KHORUS_FUZZ_SECONDS:-$total} / count))

# build_one FUZZER, run_one FUZZER: in functions, so that two fuzzers at a time use two cores.
build_one() {
  # shellcheck disable=SC2086
  "$clang" $flags $checks -fsanitize=fuzzer "tests/fuzz/fuzz_$1.cc" $objects -lcrypto \
    -o "$build/fuzz_$1"
}
run_one() {
  mkdir -p "$build/corpus/$1"
  if ! "$build/fuzz_$1" -max_total_time=$seconds -timeout=10 -rss_limit_mb=1024 \
    -malloc_limit_mb=256 -max_len=4096 -print_final_stats=1 -verbosity=0 -print_funcs=0 \
    -artifact_prefix="$build/$1-" "$build/corpus/$1" "tests/fuzz/corpus/$1" \
    >"$build/$1.log" 2>&1; then
    tail -n 60 "$build/$1.log"
    echo "fuzz_$1 found something; see again: $build/fuzz_$1 $build/$1-(crash|oom|timeout)-..."
    return 1
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$build/$1.log")
  echo "fuzz_$1: $runs inputs in $seconds s, nothing found"
}
# in_pairs FUNCTION: calls it with every fuzzer, two at a time; fails when one of them did.
in_pairs() {
  failed=0
  waiting=""
  for fuzzer in $fuzzers; do
    "$1" "$fuzzer" &
    if [ -n "$waiting" ]; then
      wait "$waiting" || failed=1
    fi
    waiting=$!
  done
  wait "$waiting" || failed=1
  return $failed
}
in_pairs build_one
in_pairs run_one
