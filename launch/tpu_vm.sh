#!/usr/bin/env bash
# Runs a config on a Cloud TPU VM with one host (v5litepod-8, v4-8, v3-8 ...): all its chips share each batch.
#
#   launch/tpu_vm.sh NAME ZONE TYPE CONFIG WORKDIR [--config.key=value ...]
#   launch/tpu_vm.sh v2l us-central2-b v4-8 configs/imagenet.py /mnt/disk/v2l_imagenet
#
# Creates the VM unless it exists, copies this checkout there, installs it with jax[tpu], and starts the run.
# WORKDIR lies on the VM: a persistent disk outlives a preemption.
# A run that was preempted goes on where it was: call again with the same arguments.
set -euo pipefail

if [ "$#" -lt 5 ]; then
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 2
fi
name=$1 zone=$2 type=$3 config=$4 workdir=$5
shift 5
root=$(cd "$(dirname "$0")/.." && pwd)
on_host=(gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --command)

if ! gcloud compute tpus tpu-vm describe "$name" --zone "$zone" >/dev/null 2>&1; then
  gcloud compute tpus tpu-vm create "$name" --zone "$zone" --accelerator-type "$type" --version tpu-ubuntu2204-base
fi
archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
git -C "$root" archive --format=tar.gz --prefix=v2l_jax/ HEAD >"$archive"
gcloud compute tpus tpu-vm scp "$archive" "$name:v2l_jax.tar.gz" --zone "$zone"
"${on_host[@]}" "tar xzf v2l_jax.tar.gz && cd v2l_jax && pip install -q -c constraints.txt -e '.[tpu]'"
printf -v overrides ' %q' "$@"
[ "$#" -gt 0 ] || overrides=""
"${on_host[@]}" "cd v2l_jax && python3 -m v2l_jax.main --config=$config --workdir=$workdir$overrides"
