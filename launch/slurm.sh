#!/usr/bin/env bash
# Train under Slurm, one torchrun per node: sbatch --nodes 2 --gpus-per-node 8 launch/slurm.sh --config launch/runs/NAME.yaml
# Five minutes before the limit of time Slurm asks the run to stop; it saves, and the same sbatch goes on.
#SBATCH --ntasks-per-node=1
#SBATCH --signal=USR1@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
if [ -z "${SLURM_JOB_ID:-}" ]; then
    echo "error: not in a Slurm job; sbatch --nodes 2 --gpus-per-node 8 launch/slurm.sh --config launch/runs/NAME.yaml" >&2
    exit 2
fi
cd "${SLURM_SUBMIT_DIR:-.}"
if [ -z "${VIRTUAL_ENV:-}" ]; then . .venv/bin/activate; fi
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000))  # two jobs may share a node
srun torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    --rdzv_id "$SLURM_JOB_ID" --rdzv_backend c10d --rdzv_endpoint "$head:$port" \
    --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout 600 launch/train.py "$@"
