#!/usr/bin/env bash
# A text that is learnt by heart: Genesis 7 to 9 in English and Spanish, 75 verses each, for hundreds of epochs.
#
#   PYTHONPATH=. OMP_NUM_THREADS=1 tests/bench/memorised_text.sh FOLDER [FLAGS of genesis-ds train]
#
# Validation are Genesis 26 and 28, and Ruth, as in every run. Takes the verses from corpora/bible; the run and a picture
# of its curves are in FOLDER. Goes on where it stopped.
set -euo pipefail
folder=$1; shift
mkdir -p "$folder"
awk -F'\t' '
  BEGIN { print "language\tbook\tchapter\tverse\ttext" }
  FNR > 1 {
    split($2, place, /[ :]/)
    of_genesis = place[1] == "GEN" && place[2] ~ /^(7|8|9|26|28)$/
    if (of_genesis || place[1] == "RUT")
      print (FILENAME ~ /\/en-/ ? "en" : "es") "\t" place[1] "\t" place[2] "\t" place[3] "\t" $4
  }' corpora/bible/verses/en-*.tsv corpora/bible/verses/es-*.tsv > "$folder/few.tsv"
[ -d "$folder/corpus" ] || python -m genesis_ds corpus import "$folder/few.tsv" --output "$folder/corpus"
python launch/train.py --ds_config ds_configs/zero2.json --name memorised_text --output_dir "$folder" \
  --data.corpus "$folder/corpus" --data.token_sets "$folder/token_sets" --data.languages '[en, es]' \
  --tasks.lm 1 --model.n_layers 4 --model.dim 96 --model.n_heads 3 --model.intermediate_size 256 \
  --batch.seq_len 256 --batch.global_batch_size 4 --batch.micro_batch_size 4 \
  --optimizer.lr 3e-3 --optimizer.weight_decay 0.1 --schedule.kind constant --schedule.warmup_steps 100 \
  --evaluation.every '2 epochs' --evaluation.max_windows 16 --alignment.every 0 --clustering.every 0 \
  --checkpoint.every '25 epochs' --log_every 500 --max_epochs 400 "$@"
python -m genesis_ds grokking "$folder/memorised_text/metrics.jsonl" --plot "$folder/curves.png"
