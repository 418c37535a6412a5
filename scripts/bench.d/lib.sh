# What the benchmarks share: where a run's figures go, and under which circumstances they were made. To be sourced.

# begin_results COMMAND [KIND]: makes $work for the run, with $raw in it and the facts of the machine; $rows takes the
# figures, and $results is where write_results puts all of it. A run that another one asked for (BENCH_PART_OF, its
# $work) has no folder of its own: its figures and raw data become the other's.
begin_results() {
  commit=$(git rev-parse --short HEAD)
  machine=$(hostname -s)-$(nproc)cpu
  results=bench-results/$(date -u +%Y-%m-%d-%H%M)-$commit-$machine${2:+-$2}
  [ -z "${BENCH_PART_OF:-}" ] || results=$BENCH_PART_OF/raw/part-${2:-main}
  work=$(mktemp -d)
  raw=$work/raw
  rows=$raw/rounds.tsv
  mkdir -p "$raw"
  : >"$rows"
  echo "$1" >"$work/command.txt"
  load_before=$(cut -d' ' -f1 /proc/loadavg)
  machine_facts >"$work/machine.txt"
}

load() { echo "$1: $(date -u +%FT%TZ), load $(cut -d' ' -f1-3 /proc/loadavg)"; }

machine_facts() {
  uname -srvm
  lscpu | grep -E '^(CPU\(s\)|Model name|Thread|L1d|L2|L3|Hypervisor|NUMA node0)'
  grep -E 'MemTotal|HugePages_Total|HugePages_Free|Hugepagesize' /proc/meminfo
  echo "transparent huge pages: $(cat /sys/kernel/mm/transparent_hugepage/enabled 2>/dev/null || echo none)"
  echo "mitigations:"
  local file
  for file in /sys/devices/system/cpu/vulnerabilities/*; do
    [ -e "$file" ] && echo "  $(basename "$file"): $(cat "$file")"
  done
  rustc --version
  # What bench-results holds does not change what is measured.
  local dirty
  dirty=$(git status --porcelain -- . ':!bench-results' | wc -l)
  if [ "$dirty" = 0 ]; then echo "commit $commit"; else echo "commit $commit, dirty: $dirty files differ"; fi
  load start
}

# udp NAME SUBJECT LAB [PKTGEN-ARGUMENT]...: what came through of as much UDP as one generator makes in $seconds, in round $round.
udp() {
  local name=$1 subject=$2 lab=$3 file=$raw/${1//\//-}-$2-$round.json
  shift 3
  "$bin/pktgen" run --lab "$lab" --flows 8 --rate max --duration "${seconds}s" --output json "$@" >"$file" \
    2>>"$raw/pktgen.txt" || die "$name, $subject: $(tail -n 1 "$raw/pktgen.txt")"
  row "$name" "$subject" received packets/s "$(jq '.received_pps | floor' "$file")"
  row "$name" "$subject" "packets per CPU-second of the machine" packets/CPU-s "$(jq '.packets_per_cpu_s // 0 | floor' "$file")"
  row "$name" "$subject" "generator: sent" packets/s "$(jq '.sent_pps | floor' "$file")"
}

# memory PREFIX: the scenarios of bench_pipeline whose names begin with that, one round.
memory() {
  local file=$raw/mem-$round.json
  "$bin/examples/bench_pipeline" ${FWD_CPU:+--cpu "$FWD_CPU"} --rounds 1 --bursts "$bursts" --only "$1" >"$file" 2>>"$raw/bench_pipeline.txt" ||
    die "bench_pipeline: $(tail -n 1 "$raw/bench_pipeline.txt")"
  jq -r '.[] | [.name, .subject, .metric, .unit, .median] | @tsv' "$file" >>"$rows"
}

# against_the_kernel: a table of the rows that both subjects have.
against_the_kernel() {
  echo "Against the kernel (median; \"unresolved\": the rounds of the two overlap, or they differ by less than 25 %). Packets/s favour whoever"
  echo "forwards on another core than the sender's, as we do; figures for each CPU-second of the machine count every core:"
  jq -r '
    group_by([.name, .metric])[] | select(length == 2) | sort_by(.subject) as [$ours, $kernel]
    | select($ours.metric | startswith("generator") | not)
    | ($ours.median / ([$kernel.median, 1e-9] | max)) as $ratio
    | [$ours.name, $ours.median, $kernel.median, $ours.unit, "×\($ratio * 100 | round / 100)",
       (if ($ratio < 1.25 and $ratio > 0.8) or ($ours.min <= $kernel.max and $kernel.min <= $ours.max) then "unresolved"
        elif $ratio > 1 then "we win" else "WE LOSE" end)] | @tsv' "$results/results.json" |
    awk -F'\t' 'BEGIN { printf "  %-22s %12s %12s  %-15s %8s\n", "", "caracal", "kernel", "", "ratio" }
                { printf "  %-22s %12s %12s  %-15s %8s  %s\n", $1, $2, $3, $4, $5, $6 }'
  if grep -q 'was the limit' "$raw/pktgen.txt"; then
    echo
    echo "The generator was the limit in $(grep -c 'was the limit' "$raw/pktgen.txt") of the UDP measurements: there the subject may carry more."
  fi
}

# row NAME SUBJECT METRIC UNIT VALUE
row() { printf '%s\t%s\t%s\t%s\t%s\n' "$@" >>"$rows"; }

# write_results: the rows as results.json, with min, median and max of the rounds, and all else, to $results.
write_results() {
  jq -R -n '
    [inputs | split("\t") | {name: .[0], subject: .[1], metric: .[2], unit: .[3], value: (.[4] | tonumber)}]
    | group_by([.name, .subject, .metric, .unit])
    | map((map(.value) | sort) as $v | ($v | length) as $n
        | del(.[0].value)[0]
          + {min: $v[0], median: (($v[(($n - 1) / 2) | floor] + $v[($n / 2) | floor]) / 2), max: $v[-1], rounds: $n})
  ' "$rows" | jq . >"$work/results.json"
  [ -z "${BENCH_PART_OF:-}" ] || by_subject <"$rows" >>"$BENCH_PART_OF/raw/rounds.tsv"
  mkdir -p "$results"
  cp -r --no-preserve=mode "$work"/{results.json,machine.txt,command.txt,raw} "$results/"
  [ ! -f "$work/skipped.json" ] || cp "$work/skipped.json" "$results/"
}

# by_subject: a part may say in the metric which of DPDK's tables a figure is of ("rte_lpm, batches of 64"); beside everything else it is
# the subject, so that the same metric is held against the same.
by_subject() {
  awk -F'\t' -v OFS='\t' '
    $2 == "dpdk" && $3 ~ /^rte_/ && match($3, /(: |, )[^,:]*$/) {
      who = substr($3, 1, RSTART - 1); what = substr($3, RSTART + 2)
      gsub(/ /, "-", who)
      $2 = who ~ /^rte_(fib|fib6|hash)$/ ? "dpdk" : "dpdk-" who
      $3 = what ~ /^(one by one|batches of)/ ? "lookup, " what : what
    }
    { print }'
}

# say_if_busy: one line if other things ran when the run began.
say_if_busy() {
  if awk "BEGIN { exit !($load_before > $(nproc) / 4) }"; then
    echo
    echo "The machine was busy with other things (load $load_before when this began): read ratios, not absolutes; figures for each CPU-second count the others' work too."
  fi
}

# within SECONDS COMMAND...: tries until it succeeds, or the time is over.
within() {
  local tries=$(($1 * 20))
  shift
  until "$@" >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || return 1
    sleep 0.05
  done
}
