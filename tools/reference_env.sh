#!/bin/bash
# reference_env.sh - makes the Python environment of the reference implementation and prints its interpreter's path.
#
#     $(tools/reference_env.sh) tools/reference.py golden
#
# REFRAIN_REFERENCE_PYTHON names an interpreter that already has the packages; it is checked and nothing is installed.
# Otherwise .reference-env in the repository is a virtual environment with the versions below. torch comes from its own
# index of CPU builds (1.5 GB on disk in all) where that can be reached, else from the default one, which has it with
# CUDA (6 GB). Only golden data and rival benchmarks need this; the product never does.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(torch==2.15.0 diffusers==0.42.1 transformers==5.23.0 accelerate==1.15.0 tokenizers==0.23.3 safetensors==0.8.0
          sentencepiece==0.2.3 ftfy==6.3.1 numpy==2.4.6 pyzmq==27.3.0 protobuf==7.36.2 cache-dit==1.5.3
          scikit-image==0.26.0 matplotlib==3.11.2)
TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu/

# Prints what is missing or of another version than pinned; nothing when all is well.
missing() {
    "$1" - "${PACKAGES[@]}" <<'PYTHON'
import importlib.metadata, sys
for wanted in sys.argv[1:]:
    name, version = wanted.split("==")
    try:
        found = importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        found = "not installed"
    if found != version:
        print(f"  {name}: {found}, wanted {version}")
PYTHON
}

if [ -n "${REFRAIN_REFERENCE_PYTHON:-}" ]; then
    wrong=$(missing "$REFRAIN_REFERENCE_PYTHON")
    if [ -n "$wrong" ]; then
        echo "reference_env: $REFRAIN_REFERENCE_PYTHON (REFRAIN_REFERENCE_PYTHON) differs from the pinned versions:" >&2
        echo "$wrong" >&2
        # Another version still runs; golden data made with it says which one it was. A missing package cannot.
        if grep -q 'not installed' <<<"$wrong"; then exit 2; fi
    fi
    echo "$REFRAIN_REFERENCE_PYTHON"
    exit 0
fi

env=$PWD/.reference-env
python=$env/bin/python
if [ ! -x "$env/bin/pip" ]; then
    python3 -m venv "$env" >&2 || {
        echo "reference_env: python3 -m venv failed; on Debian: apt-get install -y python3-venv" >&2
        exit 2
    }
fi
if [ -n "$(missing "$python")" ]; then
    echo "reference_env: installing ${PACKAGES[*]} into $env (some minutes)" >&2
    install=("$env/bin/pip" install --quiet --disable-pip-version-check)
    # Asked first: pip would try an index that does not answer again and again, for every package.
    if "$python" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$TORCH_CPU_INDEX" 2>/dev/null; then
        "${install[@]}" --index-url "$TORCH_CPU_INDEX" "${PACKAGES[0]}" >&2
    fi
    "${install[@]}" "${PACKAGES[@]}" >&2
fi
echo "$python"
