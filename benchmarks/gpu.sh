#!/usr/bin/env bash
# All measures of one GPU beside their peers, with MFU and bound, in one table: within five minutes on one H100.
# The values are kept in benchmarks/results/<name of the GPU>.yaml; `python benchmarks/gpu.py --write` puts them into
# docs/figures.md. ZOO_GPU_SMOKE=1 runs the smallest sizes, also without a GPU. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu.py "$@"
