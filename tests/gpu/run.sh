#!/bin/bash
# The tests that need a GPU: tests/gpu/run.sh [build folder]
#
# Needs a checkout and what it finds there: a compiler, CMake, GoogleTest, the torch (or NCCL) of the
# `python3` in PATH or KHORUS_PYTHON, and an NVIDIA driver. Builds what it runs, in build/gpu unless
# told otherwise. The ranks share the GPUs there are: NCCL from 2.30 on allows that when it is asked to;
# for older ones every rank pretends to be on a host of its own.
#
# With a torch that has CUDA also: train_lm on the GPU against the CPU, its checkpoints on either, train_lm.py
# likewise where that Python has numpy and safetensors, and the speed of training 124 million parameters with Khorus, with DDP on NCCL and without communication, of
# which the figures are printed and not judged. Those take a GPU for each rank.
#
# Ends with "N passed, N failed", exit code 0 if none failed. Exit code 77: there is no GPU here.
set -u
cd "$(dirname "$0")/../.." || exit 1
build=$(realpath -m "${1:-build/gpu}")
python=${KHORUS_PYTHON:-python3}

if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q '^GPU '; then
  echo "tests/gpu/run.sh: skipped: nvidia-smi shows no GPU here"
  exit 77
fi
nvidia-smi -L

cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DKHORUS_BUILD_TESTS=ON \
  -DKHORUS_PYTHON="$(command -v "$python")" || exit 1
programs=(collectives blocks sendrecv groups faults interruptions)
cmake --build "$build" -j"$(nproc)" --target khorusrun khorus gpu_engine gpu_engine_ranks \
  gpu_moves gpu_bandwidth "${programs[@]/#/conformance_}" || exit 1
bin=$(dirname "$(find "$build" -type f -name gpu_engine -perm -u+x | head -1)")
"$bin/khorusrun" --check-build | grep -A3 ' nccl ' || true

# Several ranks on one GPU.
export NCCL_MULTI_RANK_GPU_ENABLE=1
export KHORUS_TEST_GPU=1
passed=0
failed=0
check() {  # name, command...
  local name=$1
  shift
  local log=$build/gpu_$name.log
  if timeout 600 "$@" >"$log" 2>&1; then
    passed=$((passed + 1))
    echo "passed  $name"
  else
    failed=$((failed + 1))
    echo "FAILED  $name (exit code $?): $log"
    tail -n 25 "$log"
  fi
}
check moves "$bin/gpu_moves"
check bandwidth "$bin/gpu_bandwidth"
cat "$build/gpu_bandwidth.log"
# As tests/gpu/CMakeLists.txt leaves out, and those whose ranks are threads with one NCCL_HOSTID.
left_out='*DifferentOperationsAreNoticed*:*LeavingInTheMiddle*:*ErrorsNameTheRank*:*Forked*'
for program in "${programs[@]}"; do
  check "conformance_$program" "$bin/conformance_$program" "--gtest_filter=*/nccl_2:-$left_out"
done
# Ranks as processes, with a host identity each: this is the way for NCCL before 2.30.
# shellcheck disable=SC2016  # expanded by each rank
per_rank='export NCCL_HOSTID=khorus-$KHORUS_RANK; exec "$0" "$@"'
check conformance_processes env KHORUS_TEST_PROCESSES=1 "$bin/khorusrun" -np 2 \
  bash -c "$per_rank" "$bin/conformance_collectives" \
  "--gtest_filter=*/nccl_2:-*SpecialValues*:*OthersNeedNotTakePart*:*GoesOnWhenOthersHaveLeft*"
check engine "$bin/gpu_engine"
check engine_processes env KHORUSRUN="$bin/khorusrun" KHORUS_TEST_PROGRAM="$bin/gpu_engine_ranks" \
  "$python" -B -m unittest discover -v -s tests/gpu -p test_engine.py

# ---- torch
if [ -d "$build/torch_plugin" ]; then
  cmake --build "$build" -j"$(nproc)" --target train_lm khorus_python || exit 1
  gpus=$(nvidia-smi -L | grep -c '^GPU ')
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  flags=(--data core --data docs --steps 60 --warmup 6 --eval-every 30 --log-every 5)
  lm=("$bin/train_lm" "${flags[@]}")
  ranks=$((gpus < 2 ? gpus : 2))
  check train_lm_cpu "$bin/khorusrun" -np "$ranks" "${lm[@]}" --out "$work/cpu"
  check train_lm_gpu "$bin/khorusrun" -np "$ranks" "${lm[@]}" --device cuda --out "$work/gpu"
  check train_lm_equal "$python" tests/gpu/compare_curves.py "$work/cpu" "$work/gpu" 0.02
  check train_lm_bf16 "$bin/khorusrun" -np "$ranks" "${lm[@]}" --device cuda --dtype bfloat16 \
    --out "$work/bf16"
  check train_lm_near "$python" tests/gpu/compare_curves.py "$work/cpu" "$work/bf16" 0.1
  check train_lm_read_on_cpu "$bin/train_lm" --generate "int " --checkpoint "$work/gpu" --length 20
  check train_lm_read_on_gpu "$bin/train_lm" --device cuda --generate "int " --checkpoint "$work/cpu" \
    --length 20
  if "$python" -c "import numpy, safetensors" 2>/dev/null; then
    export PYTHONPATH=$build/python
    lm=("$python" examples/train_lm.py "${flags[@]}")
    check train_lm_python_gpu "$bin/khorusrun" -np "$ranks" "${lm[@]}" --device cuda \
      --out "$work/python"
    check train_lm_python_equal "$python" tests/gpu/compare_curves.py "$work/cpu" "$work/python" 0.02
    check train_lm_python_bf16 "$bin/khorusrun" -np "$ranks" "${lm[@]}" --device cuda \
      --dtype bfloat16 --out "$work/python_bf16"
    check train_lm_python_near "$python" tests/gpu/compare_curves.py "$work/cpu" "$work/python_bf16" 0.1
    check train_lm_python_read_on_gpu "$python" examples/train_lm.py --device cuda --generate "int " \
      --checkpoint "$work/cpu" --length 20
  fi
  for ranks in 1 "$gpus"; do
    check "train_lm_124m_$ranks" "$bin/khorusrun" -np "$ranks" "$bin/train_lm" --data core --size 124m \
      --device cuda --dtype bfloat16 --batch 8 --steps 60 --log-every 20 --eval-every 60 \
      --eval-windows 16 --out "$work/124m"
    grep 'tokens/s' "$build/gpu_train_lm_124m_$ranks.log" | tail -n 1
  done
  for mode in none ddp khorus; do
    check "speed_$mode" env PYTHONPATH="$build/python" "$python" -m torch.distributed.run --standalone \
      --nproc-per-node "$gpus" tests/gpu/training_speed.py "$mode"
    grep 'tokens/s' "$build/gpu_speed_$mode.log"
  done
fi
echo "$passed passed, $failed failed"
((failed == 0))
