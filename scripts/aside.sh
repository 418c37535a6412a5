# Steps beside others, for machines with few CPUs. To be sourced after lib.sh.

# aside NAME COMMAND…: what only computes runs beside what waits for packets and timers, and yields the CPU to it.
# It writes into a file; `joined` tells how it ended.
work=$(mktemp -d)
declare -A asides=()
aside() {
  local name=$1
  shift
  # Where Linux shares the CPU between sessions first (sched_autogroup), it is the session that yields.
  setsid sh -c 'echo 10 2>/dev/null >/proc/self/autogroup; exec nice -n 10 "$@"' aside "$@" >"$work/$name" 2>&1 &
  asides[$name]=$!
}

# joined NAME PATTERN: waits for what runs aside, and shows the lines of it that matter. Had it failed, all of it is shown.
joined() {
  local status=0 session=${asides[$1]}
  # What waits is over; it need not yield any more.
  { echo 0 >"/proc/$session/autogroup" && renice -n 0 -g "$session"; } >/dev/null 2>&1 || true
  wait "$session" || status=$?
  unset "asides[$1]"
  if [ "$status" != 0 ]; then
    cat "$work/$1" >&2
    die "$1: failed with status $status, and said why above"
  fi
  grep -E "$2" "$work/$1" || die "$1: did not say what it did"
}

# Neither a failure nor Ctrl-C leaves anything running.
leave() {
  local group
  for group in "${asides[@]}"; do kill -- "-$group" 2>/dev/null || true; done
  wait
  rm -rf "$work"
}
trap leave EXIT
trap 'exit 130' INT TERM
