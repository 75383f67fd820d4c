#!/usr/bin/env bash
# Runs a config on a Cloud TPU VM of any size, a process a host, until it is done.
#
#   launch/tpu_vm.sh run --name=NAME --zone=ZONE --type=TYPE --nfs=SERVER:/SHARE [--queued] [--spot] [--version=IMAGE] \
#       -- --config=configs/imagenet.py --workdir=/mnt/v2l/imagenet [--config.key=value ...]
#   launch/tpu_vm.sh delete --name=NAME --zone=ZONE [--queued]
#
# TYPE is v5litepod-8, v4-32, v5p-64, v6e-16 ... With --queued it is asked for as a queued resource and waited for.
# run creates the VM unless it is there; on every host it mounts the NFS share (of a Filestore, say) at /mnt/v2l, installs this
# checkout's last commit, and starts python -m v2l_jax.main --distributed with what follows --.
#
# Exit code 143 (told to stop: saved) starts it again. A VM that was preempted is created anew, and the run goes on. Any other
# failure ends this script with the run's code. The VM stays, and costs, until delete, which also stops what runs there.
#
# The workdir lies on the share, or in a bucket, --workdir=gs://BUCKET/FOLDER. Caches are in /mnt/v2l/cache; a
# Hugging Face token goes to /mnt/v2l/cache/huggingface/token.
# Needs gcloud; for several hosts also ssh-add ~/.ssh/google_compute_engine. Keep the terminal open (tmux).

set -euo pipefail
cd "$(dirname "$0")/.."
source launch/lib.sh

MOUNT=/mnt/v2l
WAIT_SECONDS=${V2L_WAIT_SECONDS:-60} # between looks at the VM's state; a preemption shows only a while after the run failed

command=${1:---help}
shift || true
case $command in
  run | delete) ;;
  --help | -h) usage && exit ;;
  *) fail "not understood: $command; it is run or delete, see --help" ;;
esac
name="" zone="" type="" nfs="" queued="" spot="" version=""
while [ "$#" -gt 0 ]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --nfs=*) nfs=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --queued) queued=1 ;;
    --spot) spot=1 ;;
    --help | -h) usage && exit ;;
    --) shift && break ;;
    *) fail "not understood: $1; see --help" ;;
  esac
  shift
done
need --name "$name"
need --zone "$zone"
command -v gcloud >/dev/null || fail "gcloud is not installed"

state() {
  if [ -n "$queued" ]; then
    gcloud compute tpus queued-resources describe "$name" --zone="$zone" --format="value(state.state)" 2>/dev/null || echo NONE
  else
    gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format="value(state)" 2>/dev/null || echo NONE
  fi
}

create() {
  if [ -n "$queued" ]; then
    gcloud compute tpus queued-resources create "$name" --node-id="$name" --zone="$zone" --accelerator-type="$type" \
      --runtime-version="$version" ${spot:+--spot}
  else
    gcloud compute tpus tpu-vm create "$name" --zone="$zone" --accelerator-type="$type" --version="$version" ${spot:+--spot}
  fi
}

delete() {
  if [ -n "$queued" ]; then
    gcloud compute tpus queued-resources delete "$name" --zone="$zone" --force --quiet
  else
    gcloud compute tpus tpu-vm delete "$name" --zone="$zone" --quiet
  fi
}

# Returns once the VM is ready.
ensure() {
  local now
  while true; do
    now=$(state)
    case $now in
      READY | ACTIVE) return ;;
      NONE) create ;;
      PREEMPTED | TERMINATED | SUSPENDED) say "$name: $now; creating it anew" && delete ;;
      FAILED) fail "the request for $name failed: gcloud compute tpus queued-resources describe $name --zone=$zone says why" ;;
      *) say "waiting for $name: $now" && sleep "$WAIT_SECONDS" ;;
    esac
  done
}

on_every_host() { gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$1"; }

copy_checkout() {
  git archive --format=tar.gz --prefix=v2l_jax/ --output="$scratch/v2l_jax.tar.gz" HEAD &&
    gcloud compute tpus tpu-vm scp "$scratch/v2l_jax.tar.gz" "$name:" --zone="$zone" --worker=all
}

if [ "$command" = delete ]; then
  delete
  exit
fi
need --type "$type"
need --nfs "$nfs"
[[ $nfs == *:/* ]] || fail "--nfs=$nfs: write SERVER:/SHARE"
check_run "$MOUNT/" "$@"
git diff --quiet HEAD || say "note: changes that are not committed stay here"
if [ -z "$version" ]; then
  case $type in
    v5litepod-*) version=v2-alpha-tpuv5-lite ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v6e-*) version=v2-alpha-tpuv6e ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

prepare="mountpoint -q $MOUNT || { sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common"
prepare+=" && sudo mkdir -p $MOUNT && sudo mount -t nfs $nfs $MOUNT; } && { [ -w $MOUNT ] || sudo chown \$(id -u) $MOUNT; }"
# The images' Python may be older than the project wants; uv brings its own.
prepare+=" && rm -rf v2l_jax && tar xzf v2l_jax.tar.gz && { [ -x .local/bin/uv ] || curl -LsSf https://astral.sh/uv/install.sh | sh; }"
prepare+=" && .local/bin/uv venv --quiet --python=3.11 --allow-existing v2l_venv"
prepare+=" && .local/bin/uv pip install --quiet --python=v2l_venv -c v2l_jax/constraints.txt --editable='./v2l_jax[tpu]'"
printf -v arguments ' %q' "$@"
start="cd v2l_jax && XDG_CACHE_HOME=$MOUNT/cache exec ../v2l_venv/bin/python -m v2l_jax.main --distributed$arguments"

while true; do
  ensure
  code=0
  { copy_checkout && on_every_host "$prepare" && on_every_host "$start"; } || code=$?
  [ "$code" -ne 0 ] || exit 0
  say "ended with code $code; looking in $WAIT_SECONDS s whether $name is still there"
  sleep "$WAIT_SECONDS"
  now=$(state)
  case $now in
    READY | ACTIVE) [ "$code" -eq 143 ] || exit "$code" ;;
    NONE) fail "$name is no longer there" ;;
  esac
  say "$name: $now; the run goes on from what it saved"
done
