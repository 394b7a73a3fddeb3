#!/bin/sh
# Trains and tests every row of every script whose data is there, and writes RESULTS.md. With words, the rows that
# all of them name: ./run_all.sh vae, ./run_all.sh mnist, ./run_all.sh vae mnist. See run_all.py.
exec python3 "$(dirname "$0")/run_all.py" "$@"
