#!/usr/bin/env bash
# CIFAR-10 from scratch in four minutes of one GPU: recipes/vit_cifar.py with as many epochs as fit, at the speed that is
# measured first. Target on an H100: >= 91 % on the test set. The data is found through ZOO_DATA_DIR (the folder that has
# cifar10/train.parquet and cifar10/test.parquet), else on the Hugging Face Hub. Options: those of gpu_recipe.py, e.g.
# epochs=90 (no measurement first), run_dir=runs/gpu_cifar (kept; resumed if it is not finished).
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python3}" benchmarks/gpu_recipe.py minutes=4 data=cifar10 device=cuda "$@"
