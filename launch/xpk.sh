#!/usr/bin/env bash
# Runs a config as a workload of XPK, on a TPU slice of a GKE cluster that XPK created, a process a host.
#
#   launch/xpk.sh --workload=NAME --cluster=CLUSTER --tpu-type=v5litepod-16 --docker-image=IMAGE --storage=STORAGE \
#       -- --config=configs/imagenet.py --workdir=/mnt/v2l/imagenet [--config.key=value ...]
#
# Before -- stand options of xpk workload create: these five, and --project, --zone, --max-restarts ... (a run spans
# one slice, so not --num-slices).
# IMAGE is built by launch/Dockerfile. STORAGE is a file system that every host sees, such as a Filestore:
#   xpk storage create STORAGE --type=gcpfilestore --mount-point=/mnt/v2l --readonly=false --auto-mount=false --vol=default \
#       --size=1024 --tier=BASIC_HDD --access-mode=ReadWriteMany --cluster=CLUSTER
# It holds the caches, and the workdir unless that is in a bucket, --workdir=gs://BUCKET/FOLDER.
#
# XPK starts it again, --max-restarts times, after exit codes from 127 up: 143 (told to stop: saved) and 134 (JAX, when a host is
# gone) are among them. Any other failure ends the workload. To stop it: xpk workload delete.

set -euo pipefail
cd "$(dirname "$0")/.."
source launch/lib.sh

options=()
while [ "$#" -gt 0 ]; do
  case $1 in
    --help | -h) usage && exit ;;
    --) shift && break ;;
    *) options+=("$1") ;;
  esac
  shift
done
for option in --workload --cluster --tpu-type --docker-image --storage; do
  case " ${options[*]-} " in
    *" $option="?*) ;;
    *) fail "$option=... is missing; see --help" ;;
  esac
done
check_run /mnt/v2l/ "$@"
command -v xpk >/dev/null || fail "xpk is not installed: pip install xpk"

printf -v arguments ' %q' "$@"
# exec: XPK passes SIGTERM on to the process that this command is, not to that one's children.
xpk workload create --max-restarts=50 --termination-grace-period-seconds=120 "${options[@]}" \
  --command="cd /v2l_jax && exec python -m v2l_jax.main --distributed$arguments"
