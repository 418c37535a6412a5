# What the benchmarks share: where a run's figures go, and under which circumstances they were made. To be sourced.

# begin_results COMMAND [KIND]: makes $work for the run, with $raw in it and the facts of the machine; $rows takes the
# figures, and $results is where write_results puts all of it.
begin_results() {
  commit=$(git rev-parse --short HEAD)
  machine=$(hostname -s)-$(nproc)cpu
  results=bench-results/$(date -u +%Y-%m-%d-%H%M)-$commit-$machine${2:+-$2}
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
  mkdir -p "$results"
  cp -r --no-preserve=mode "$work"/{results.json,machine.txt,command.txt,raw} "$results/"
}

# say_if_busy: one line if other things ran when the run began.
say_if_busy() {
  if awk "BEGIN { exit !($load_before > $(nproc) / 4) }"; then
    echo
    echo "The machine was busy with other things (load $load_before when this began): read ratios, not absolutes; figures for each CPU-second count the others' work too."
  fi
}
