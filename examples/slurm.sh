#!/bin/sh
# One task a node, each with a results folder of its own; submit it again to resume.
#   sbatch --array=0-3 examples/slurm.sh quickstart
#SBATCH --job-name=gpu-cost-bench
#SBATCH --gpus=1
#SBATCH --exclusive
#SBATCH --time=08:00:00
set -e
exec scripts/bench run "${1:-quickstart}" --into "results/slurm/$SLURM_JOB_NAME-$SLURM_ARRAY_TASK_ID"
