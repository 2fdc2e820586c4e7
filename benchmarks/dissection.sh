#!/usr/bin/env bash
# The whole study of SR-GNN by SparseVD on one data set: every run that docs/results/ speaks of, then the figures.
#
#   bash benchmarks/dissection.sh                                  Diginetica, D = 256, 60,000 steps, 3 seeds
#   DATASET=diginetica-eighth DIM=64 STEPS=8000 bash benchmarks/dissection.sh
#
# Finished runs are skipped and stopped runs continue: the same command again is always right.
set -uo pipefail
dataset=${DATASET:-diginetica} dim=${DIM:-256} steps=${STEPS:-60000} jobs=${JOBS:-3} runs=${RUNS:-runs}
read -ra numbers <<< "${SEEDS:-1 2 3}"
seeds=() && for s in "${numbers[@]}"; do seeds+=(--seed "$s"); done

study() {
  dissect run --model srgnn --dataset "$dataset" --dim "$dim" --max-steps "$steps" --runs-dir "$runs" "$@"
  local code=$?
  [ $code -eq 130 ] && exit 130
  return 0 # "finished already" is not a failure here
}

study "${seeds[@]}" --jobs "$jobs"
study "${seeds[@]}" --jobs "$jobs" --without propagation
study --seed "${numbers[0]}" --noise weight
study "${seeds[@]}" --jobs "$jobs" --where gnn
study "${seeds[@]}" --jobs "$jobs" --where readout
study --seed "${numbers[0]}" --prior normal
study --seed "${numbers[0]}" --propagation "A(HW)"
# What the authors' optimiser would do: the rate cut every 3 epochs, decay on everything, the KL from the start.
study --seed "${numbers[0]}" --schedule steps --decay-everything --kl-warmup 0
dissect plot density --runs-dir "$runs"
