#!/bin/sh
# Trains and tests every experiment whose data is available, in parallel. Arguments select the experiments that match
# all of them: ./run_all.sh vae, ./run_all.sh mnist, ./run_all.sh vae mnist. See common/run_all.py.
folder=$(dirname "$(readlink -f "$0")")
export PYTHONPATH="$folder${PYTHONPATH:+:$PYTHONPATH}"
exec python3 -P -m common.run_all "$@"
