#!/usr/bin/env bash
# Train on several hosts without a scheduler: start this on each of them, in a folder they share.
#
#   HEAD=host0 NODES=4 examples/launch/torchrun.sh model=7b parallel=hsdp run.dir=runs/7b ...
#
# HEAD      the host that the others meet at, one of them
# NODES     how many hosts there are
# RANKS     processes on each, one for each GPU (8)
# PORT      free on HEAD (29500)
# RUN_ID    the same on every host, another for each run that is on at the same time
set -euo pipefail

: "${HEAD:?the host that the others meet at: HEAD=host0 NODES=4 $0 model=7b ...}"
: "${NODES:?how many hosts there are: HEAD=host0 NODES=4 $0 model=7b ...}"

exec torchrun \
    --nnodes "$NODES" \
    --nproc-per-node "${RANKS:-8}" \
    --rdzv-backend c10d \
    --rdzv-endpoint "$HEAD:${PORT:-29500}" \
    --rdzv-id "${RUN_ID:-megafm}" \
    -m megafm.train "$@"
