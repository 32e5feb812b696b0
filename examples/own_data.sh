#!/usr/bin/env bash
# A small model of your own texts: data, tokenizer, shards, training, evaluation, a sample, export.
#
#   examples/own_data.sh FOLDER [RUN] [key=value ...]
#
# FOLDER holds text files, or .jsonl files with a "text" field. The overrides go to training, for
# example: examples/own_data.sh ~/texts runs/mine train.steps=2000 model=125m
set -euo pipefail

folder=${1:?usage: examples/own_data.sh FOLDER [RUN] [key=value ...]}
run=${2:-runs/own_data}
shift $(($# > 1 ? 2 : 1))
vocab_size=${VOCAB_SIZE:-4096}
ranks=${RANKS:-1}
where=(data.dir="$run/data" tokenizer.dir="$run/tokenizer")

megafm data data.dir="$run/data" source=files source.path="$folder"
megafm tokenizer "${where[@]}" tokenizer.vocab_size="$vocab_size"
megafm data action=tokenize "${where[@]}"
torchrun --standalone --nproc-per-node "$ranks" -m megafm.train experiment=quickstart \
    run.dir="$run" "${where[@]}" model.vocab_size="$vocab_size" "$@"
megafm evaluate run.dir="$run" data.dir="$run/data"
megafm generate run.dir="$run" prompt="The " save=true
megafm convert to=hf run.dir="$run" output="$run/hf"
