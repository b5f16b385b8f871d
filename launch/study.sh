#!/usr/bin/env bash
# The study of docs/study.md from end to end: corpus, training, and what came of it. A second run skips what is done.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

if [ ! -e corpora/bible/manifest.json ]; then
    genesis-ds corpus fetch --languages en,es,ko --output corpora/bible
fi
if [ ! -e corpora/study/manifest.json ]; then
    # Trained on are Micah and Haggai; Ruth and Jonah are val_book, and the chapters beside them val_chapter.
    awk -F'\t' '
        BEGIN { print "language\tbook\tchapter\tverse\ttext" }
        split($2, place, /[ :]/) == 3 && place[1] " " place[2] ~ /^((MIC|HAG|RUT|JON) .*|HOS [14]|AMO 6|ZEC 11)$/ {
            n = split(FILENAME, folders, "/")
            print substr(folders[n], 1, 2) "\t" place[1] "\t" place[2] "\t" place[3] "\t" $4
        }' corpora/bible/verses/{en,es,ko}-*.tsv > corpora/study.tsv
    genesis-ds corpus import corpora/study.tsv --output corpora/study
fi
genesis-ds train --config launch/runs/study.yaml --ds_config ds_configs/zero2.json
genesis-ds report runs/study --output runs/study/report.html
genesis-ds grokking runs/study/metrics.jsonl --plot runs/study/curves.png
genesis-ds score runs/study --split val_book
genesis-ds score runs/study --split val_book --checkpoint best
[ -e exported/study ] || genesis-ds checkpoint export runs/study exported/study
