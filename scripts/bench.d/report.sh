# What is done around the measuring: building, the facts of the run, the tables at the end, comparisons. To be sourced.

build_subjects() {
  say "building ($profile)"
  if [ $mode = smoke ]; then
    # What scripts/test has built, so that nothing is built again with other features.
    cargo build --locked --workspace --bins --tests --examples
    return
  fi
  cargo build --release --locked -p caracal -p caracal-dataplane -p pktgen
  # By themselves: examples bring the features of dev-dependencies, and the programs must not have those.
  cargo build --release --locked -p caracal-dataplane --example bench_pipeline
  cargo build --release --locked -p caracal-xsk --example bare_forwarder
}

# best_engine: of those that this pktgen has, the fastest on veths.
best_engine() {
  local name
  for name in live xsk socket; do
    "$bin/pktgen" run --help | grep -qE "^ *- $name:|possible values:.*\b$name\b" && { echo $name; return; }
  done
  echo socket
}

measured_with() {
  echo "cores: generator $GEN_CPU, forwarder $FWD_CPU, sink $SINK_CPU, the rest $REST_CPU"
  echo "  kernel, kernel-*, xdp-redirect: a threaded NAPI on the forwarder's core does receive, forwarding and transmit"
  echo "  caracal, bare-af_xdp, dpdk*, ovs: a polling thread on the forwarder's core; what the kernel does to receive for it is softirq work on the generator's core"
  echo "  all: the sink's receive is a threaded NAPI on the sink's core"
  echo "generator: pktgen --engine $engine, 8 flows"
  echo "rounds $rounds of $seconds for each subject, sizes ${sizes[*]}"
  dpkg-query -W -f '${Package} ${Version}\n' dpdk-dev nftables iperf3 linux-libc-dev 2>/dev/null
}

# in_turn ROUND ITEM...: TURNS is the items, beginning elsewhere and in the other direction from round to round.
in_turn() {
  local round=$1 index count
  shift
  count=$#
  TURNS=()
  for ((index = 0; index < count; index++)); do
    local at=$(((index + round) % count))
    ((round % 2)) || at=$(((2 * count - index - 1 - round % count) % count))
    TURNS+=("${@:at+1:1}")
  done
}

# measure_parts: the tables by themselves beside DPDK's, with few rounds; their figures become this run's.
measure_parts() {
  local part few=3
  [ "$mode" = full ] && few=7
  for part in tables policy; do
    [ "$mode" != quick ] || [ $part != policy ] || continue
    [ -x "$BENCH/$part" ] || { REASON="scripts/bench.d/$part is not there"; skip "dpdk-$part" memory; continue; }
    say "$part, beside DPDK's"
    BENCH_PART_OF=$work "$BENCH/$part" --quick --rounds $few >"$raw/part-$part.txt" 2>&1 ||
      { REASON="scripts/bench $part: $(tail -n 1 "$raw/part-$part.txt")"; skip "dpdk-$part" memory; }
  done
}

vpp_or_skip() { vpp_measure || { skip vpp memory; topology_down vpp; }; }

write_skipped() { if [ -s "$work/skipped" ]; then jq -s . "$work/skipped"; else echo '[]'; fi >"$work/skipped.json"; }

# What is beside the figures, in words.
in_words() {
  jq -r 'map(select(.metric == "generator: was the limit" and .max > 0)) | .[]
    | "The generator was the limit in some rounds of \(.name), \(.subject): it may carry more."' "$results/results.json"
  jq -r '.[] | "Left out: \(.subject), \(.case): \(.reason)"' "$results/skipped.json"
  say_if_busy
}

budgets() {
  echo
  echo "Our budgets, in memory, one core (median of the rounds; min … max):"
  jq -r '
    {"mem/vxlan-decap-established": 50, "mem/verdict/rules-100": 60, "mem/verdict/rules-1000": 60, "mem/verdict/rules-10000": 90} as $budget
    | .[] | select((.name | startswith("mem/")) and .subject == "caracal" and .metric != "verdict and flow remembered" and (.unit | startswith("ns")))
    | [.name, (.median * 10 | round / 10), "\(.min * 10 | round / 10) … \(.max * 10 | round / 10)",
       ($budget[.name] as $b | if $b == null then "" elif .median <= $b then "within the budget of \($b)"
        else "MISSES the budget of \($b), ×\(.median / $b * 10 | round / 10)" end)] | @tsv' "$results/results.json" |
    awk -F'\t' '{ printf "  %-34s %9s   %-20s %s\n", $1, $2, $3, $4 }'
}

tables() {
  [ "$mode" = smoke ] || budgets
  echo
  echo "Ours beside each peer (medians; × is how many times as good ours is). Mpps favour whoever has the kernel receive on another core;"
  echo "packets per CPU-second count every core:"
  "$bin/pktgen" report "$results" --html "$results/report.html" || say "pktgen report makes no page of this"
  echo
  in_words
}

# compare BEFORE AFTER: which differences are more than noise.
compare() {
  echo
  echo "$2 against $1. Other days, other machines: mem/calibration, a fixed loop, says how the processors themselves differed."
  "$bin/pktgen" report "$2" --against "$1"
}
