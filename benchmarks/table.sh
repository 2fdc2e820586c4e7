#!/usr/bin/env bash
# The whole comparison on one data set: SR-GNN, its controls, Atten-Mixer in three forms, and the baselines.
#
#   bash benchmarks/table.sh                                       Diginetica, D = 256, 3 seeds
#   DATASET=tmall bash benchmarks/table.sh
#   DIM=104 bash benchmarks/table.sh                               any multiple of 8: the released code's heads divide it
#
# Finished runs are skipped and stopped runs continue: the same command again is always right.
set -uo pipefail
dataset=${DATASET:-diginetica} dim=${DIM:-256} epochs=${EPOCHS:-10} jobs=${JOBS:-3} runs=${RUNS:-runs}
read -ra numbers <<< "${SEEDS:-1 2 3}"
seeds=() && for s in "${numbers[@]}"; do seeds+=(--seed "$s"); done

train() {
  dissect train "$@" --dataset "$dataset" --runs-dir "$runs" > /dev/null
  local code=$?
  [ $code -eq 130 ] && exit 130
  return 0 # "finished already" is not a failure here
}
neural() { train "$@" --dim "$dim" --epochs "$epochs" "${seeds[@]}" --jobs "$jobs"; }

for baseline in pop spop sknn vsknn; do train "$baseline"; done
neural srgnn
neural srgnn --preset normalised
neural srgnn --option steps=0
neural srgnn --preset normalised --option steps=0
neural srgnn --readout attenmixer
neural attenmixer
neural attenmixer --preset official
neural attenmixer --preset fixed
neural attenmixer --without attention
dissect compare --dataset "$dataset" --runs-dir "$runs"
