#!/bin/sh
# Trains and tests every row of every script whose data is there, side by side. With words, the rows that all of them
# name: ./run_all.sh vae, ./run_all.sh mnist, ./run_all.sh vae mnist. See common/run_all.py.
folder=$(dirname "$(readlink -f "$0")")
export PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
exec python3 -P -m common.run_all "$@"
