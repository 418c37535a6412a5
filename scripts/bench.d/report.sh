# What is done around the measuring: building, the facts of the run, the tables at the end, comparisons. To be sourced.

build_subjects() {
  local profile=(--release)
  say "building release"
  cargo build "${profile[@]}" --locked -p caracal -p caracal-dataplane -p pktgen
  # By themselves: examples bring the features of dev-dependencies, and the programs must not have those.
  cargo build "${profile[@]}" --locked -p caracal-dataplane --example bench_pipeline
  cargo build "${profile[@]}" --locked -p caracal-xsk --example bare_forwarder
  bin=$(realpath "${CARGO_TARGET_DIR:-target}/release")
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

vpp_or_skip() { vpp_install || skip vpp memory; }

write_skipped() { if [ -s "$work/skipped" ]; then jq -s . "$work/skipped"; else echo '[]'; fi >"$work/skipped.json"; }

tables() {
  echo
  echo "In memory, one core (median of the rounds; min … max), beside budgets:"
  jq -r '
    {"mem/vxlan-decap-established": 50, "mem/verdict/rules-100": 60, "mem/verdict/rules-1000": 60, "mem/verdict/rules-10000": 90} as $budget
    | .[] | select((.name | startswith("mem/")) and .subject == "caracal" and (.unit | startswith("ns")))
    | [.name, (.median * 10 | round / 10), "\(.min * 10 | round / 10) … \(.max * 10 | round / 10)",
       ($budget[.name] as $b | if $b == null then "" elif .median <= $b then "within the budget of \($b)"
        else "MISSES the budget of \($b), ×\(.median / $b * 10 | round / 10)" end)] | @tsv' "$results/results.json" |
    awk -F'\t' '{ printf "  %-34s %9s   %-20s %s\n", $1, $2, $3, $4 }'
  echo
  echo "Beside each other (median; × is ours by theirs, so that more than 1 is ours in front. \"unresolved\": rounds of the two overlap, or"
  echo "differ by less than 25 %). Mpps favour whoever has the kernel receive on another core; packets per CPU-second count every core:"
  jq -r '
    # Whether less is better.
    def less: (.unit | startswith("ns") or . == "µs" or . == "s" or . == "MiB");
    map(select((.metric | startswith("generator") | not) and .name != "mem/calibration")) | group_by([.name, .metric, .unit])[]
    | (map(select(.subject == "caracal"))[0]) as $ours | select($ours != null and length > 1)
    | ($ours | [.name, .metric, .unit, .subject, .median, "", ""] | @tsv),
      (.[] | select(.subject != "caracal")
        | (if less then .median / ([$ours.median, 1e-9] | max) else $ours.median / ([.median, 1e-9] | max) end) as $ratio
        | [.name, .metric, .unit, .subject, .median, ($ratio * 100 | round / 100),
           (if .rounds < 3 or ($ratio < 1.25 and $ratio > 0.8) or ($ours.min <= .max and .min <= $ours.max) then "unresolved"
            elif $ratio > 1 then "we win" else "WE LOSE" end)] | @tsv)' "$results/results.json" |
    awk -F'\t' '{ head = $1 ", " $2 ", " $3; if (head != last) { printf "  %s\n", head; last = head }
                  printf "    %-26s %14.4g  %8s  %s\n", $4, $5, $6 == "" ? "" : "×" $6, $7 }'
  echo
  jq -r 'map(select(.metric == "generator: was the limit" and .max > 0)) | .[]
    | "The generator was the limit: \(.name), \(.subject): it may carry more."' "$results/results.json"
  jq -r '.[] | "Left out: \(.subject), \(.case): \(.reason)"' "$results/skipped.json"
  say_if_busy
}

html_report() {
  "$bin/pktgen" report --help >/dev/null 2>&1 || return 0
  "$bin/pktgen" report "$results/results.json" --html "$results/report.html" >"$results/raw/report.txt" 2>&1 ||
    say "pktgen report makes no page of this: $(tail -n 1 "$results/raw/report.txt")"
}

# compare BEFORE AFTER: what of the difference is noise. Ranges of rounds that overlap are; so is what the calibration loop did, too.
compare() {
  local run
  for run in "$1" "$2"; do [ -f "$run/results.json" ] || die "$run has no results.json"; done
  echo
  echo "$2 against $1 (medians; × is after by before. \"noise\": the rounds of the two runs overlap, or they differ by less than 10 %;"
  echo "\"by the kernel\" is the same ratio, each divided by the kernel's of its own run: it stands where machines or days differ):"
  jq -n -r --slurpfile before "$1/results.json" --slurpfile after "$2/results.json" '
    def key: [.name, .subject, .metric];
    ($before[0] | map({key: (key | tojson), value: .}) | from_entries) as $was
    | ($after[0] | map({key: (key | tojson), value: .}) | from_entries) as $is
    | def kernel($run; $row): $run[[$row.name, "kernel", $row.metric] | tojson].median;
    $after[0][] | select(.metric | startswith("generator") | not) | . as $now | $was[key | tojson] as $then | select($then != null and $then.median > 0)
    | ($now.median / $then.median) as $ratio
    | (kernel($is; $now) as $kn | kernel($was; $now) as $kt
       | if $now.subject == "kernel" or ($kn // 0) <= 0 or ($kt // 0) <= 0 then "" else $ratio / ($kn / $kt) * 100 | round / 100 end) as $relative
    | ($now.unit | startswith("ns") or . == "µs" or . == "s" or . == "MiB") as $less
    | [$now.name, $now.subject, $now.metric, $now.unit, $then.median, $now.median, ($ratio * 100 | round / 100), $relative,
       (if ($now.min <= $then.max and $then.min <= $now.max) or ($ratio > 0.9 and $ratio < 1.1) then "noise"
        elif ($ratio > 1) != $less then "better" else "WORSE" end)] | @tsv' |
    awk -F'\t' 'BEGIN { printf "  %-34s %-24s %-38s %12s %12s %7s %7s\n", "", "", "", "before", "after", "", "by the kernel" }
                { printf "  %-34s %-24s %-38s %12.4g %12.4g %7s %7s  %s\n", $1, $2, $3 ", " $4, $5, $6, "×" $7, $8 == "" ? "" : "×" $8, $9 }'
}
