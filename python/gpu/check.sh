#!/usr/bin/env bash
# check.sh [--out DIR] [--minutes N] [--again] [stage ...]: unpacks the bundle that lies beside it, joins the models whose
# parts lie there too, and runs the stages. DIR/gpu.json is whole after every step; the same command goes on after a kill.
# Needs Python with numpy. XQUANT_GPU_WORK: where to unpack (a folder below TMPDIR).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${XQUANT_GPU_WORK:-${TMPDIR:-/tmp}/xquant-gpu}

python=
for name in ${PYTHON:-python3 python /opt/torch/.venv/bin/python3}; do
    if "$name" -c 'import numpy' 2>/dev/null; then
        python=$name
        break
    fi
done
if [[ -z "$python" ]]; then
    echo "check.sh: no Python with numpy: name one in PYTHON" >&2
    exit 2
fi

mkdir -p "$work"
unpacked=$("$python" "$here/unpack.py" "$here" "$work")
from=$PWD
cd "$unpacked" # Python looks for modules where it is started
PYTHONPATH="$unpacked:$unpacked/site" PYTHONDONTWRITEBYTECODE=1 exec "$python" -m check --work "$work" --from "$from" "$@"
