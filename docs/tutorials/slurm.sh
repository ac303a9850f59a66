#!/usr/bin/env bash
# Trains a method on several datasets, one Slurm task each. Submit with: sbatch slurm.sh
#SBATCH --job-name=jaxrl-prefs
#SBATCH --array=0-2
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -euo pipefail

datasets=(
    mujoco/hopper/medium-v0
    mujoco/halfcheetah/medium-v0
    mujoco/walker2d/medium-v0
)
dataset="${datasets[$SLURM_ARRAY_TASK_ID]}"
export MINARI_DATASETS_PATH="${SCRATCH:?}/minari" # seen by all nodes, downloaded beforehand

source .venv/bin/activate
# The same command resumes, so a task that is stopped and queued again loses little.
srun jaxrl-prefs run \
    --algo=bdpo \
    --dataset="$dataset" \
    --seeds=10 \
    --workdir="${SCRATCH:?}/runs/bdpo-${dataset//\//-}"
