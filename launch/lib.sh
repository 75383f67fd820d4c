# shellcheck shell=bash
# What the launchers share: sourced by them, not run.

say() { echo "$*" >&2; }

fail() {
  say "error: $*"
  exit 2
}

# The comment at the top of the script.
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; }

# need OPTION VALUE: an option that cannot be left out.
need() { [ -n "$2" ] || fail "$1 is missing; see --help"; }

# check_run FOLDER ARGUMENT...: the arguments for v2l_jax.main name a config of this checkout, and a workdir in FOLDER or a bucket.
check_run() {
  local folder=$1 argument config="" workdir=""
  shift
  for argument; do
    case $argument in
      --config=*) config=${argument#*=} ;;
      --workdir=*) workdir=${argument#*=} ;;
    esac
  done
  need "--config=FILE, for the run," "$config"
  [ -f "${config%%:*}" ] || fail "there is no config file ${config%%:*} in $PWD"
  need "--workdir=FOLDER, for the run," "$workdir"
  case $workdir in
    gs://?*/?* | "$folder"*) ;;
    *://*) fail "--workdir=$workdir: of buckets only gs://BUCKET/FOLDER will do; see --help" ;;
    *) fail "--workdir=$workdir: must lie in $folder, which every host sees, or in gs://" ;;
  esac
}
