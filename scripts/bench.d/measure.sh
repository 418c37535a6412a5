# One measurement of each kind. To be sourced.

# trial SUBJECT NAME CASE SIZE: as many packets as the generator makes, for $seconds.
trial() {
  local metric=veth/$3/$4 file
  file=$raw/${metric//\//-}-$1-$round.json
  resume "$2"
  # shellcheck disable=SC2046
  taskset -c $GEN_CPU,$REST_CPU "$bin/pktgen" run -q $(way_of "$1" "$2" "$3") $(made_by "$3") --flows 8 --rate max --duration "$seconds" \
    --size "$4" --linger 100ms --output json >"$file" 2>>"$raw/pktgen.txt" || echo '{}' >"$file"
  pause "$2"
  if ! jq -e '.total.received > 0' "$file" >/dev/null; then
    # It did carry when it was brought up: this round is left out, and the others count.
    REASON="round $round, $4 bytes: nothing came through: $(tail -n 1 "$raw/pktgen.txt")"
    skip "$1" "$3"
    return 0
  fi
  row "$metric" "$1" throughput Mpps "$(jq '.received_pps / 1e6' "$file")"
  row "$metric" "$1" "packets per CPU-second of the machine" packets/CPU-s "$(jq '.packets_per_cpu_s // 0 | floor' "$file")"
  row "$metric" "$1" "generator: sent" Mpps "$(jq '.sent_pps / 1e6' "$file")"
  row "$metric" "$1" "generator: was the limit" "of 1" "$(jq 'if .ends.generator_was_the_limit then 1 else 0 end' "$file")"
}

# search SUBJECT NAME CASE SIZE: NDR and PDR, and the latency at parts of NDR.
search() {
  local metric=veth/$3/$4 file
  file=$raw/search-${metric//\//-}-$1-$round.json
  resume "$2"
  # Its exit status is 1 if a rate was not found: the others count. shellcheck disable=SC2046
  taskset -c $GEN_CPU,$REST_CPU "$bin/pktgen" search -q $(way_of "$1" "$2" "$3") $(made_by "$3") --flows 8 --size "$4" --duration 2s \
    --latency-at 10,50,90 --output json >"$file" 2>>"$raw/pktgen.txt" || true
  pause "$2"
  if ! jq -e .results "$file" >/dev/null 2>&1; then
    REASON="search of round $round: $(tail -n 1 "$raw/pktgen.txt")"
    skip "$1" "$3"
    return 0
  fi
  jq -r --arg name "$metric" --arg subject "$1" '
    (.results[] | select(.lower_pps != null) | [$name, $subject, "\(.name | split(" ")[0]) by search", "Mpps", .lower_pps / 1e6]),
    (.latency[] | select(.latency_ns != null) | .percent as $at | .latency_ns
      | [$name, $subject, "latency at \($at) % of NDR, median", "µs", .p50 / 1e3],
        [$name, $subject, "latency at \($at) % of NDR, 99th percentile", "µs", .p99 / 1e3]) | @tsv' "$file" >>"$rows"
}

# Seconds that all CPUs have been busy: user, nice, system, irq, softirq, steal.
busy() { awk '/^cpu /{ printf "%.2f", ($2 + $3 + $4 + $7 + $8 + $9) / '"$(getconf CLK_TCK)"' }' /proc/stat; }

# --- TCP: labs of two nodes each, on every core, with every offload that pods and uplinks have --------------------------------

tcp_lab() { case $1 in caracal) echo "$PREFIX-t" ;; *) echo "$PREFIX-k" ;; esac; }

tcp_labs_up() {
  local subject extra
  for subject in caracal kernel; do
    extra='' 
    [ $subject = caracal ] || extra='lab: {kernelNodes: [node1, node2]}'
    {
      echo "name: tcp-$subject"
      echo "objects:"
      bench_pod client node1 10.244.1.2
      bench_pod near node1 10.244.1.3
      bench_pod far node2 10.244.2.2
      echo "flows: [{from: bench/client, to: bench/far, protocol: ICMP, icmp: {type: 8, code: 0}, expect: allow}]"
      echo "$extra"
    } >"$raw/tcp-$subject.yaml"
    say "bringing up the lab for TCP of $subject"
    "$bin/caracal" lab up --name "$(tcp_lab $subject)" "$raw/tcp-$subject.yaml" >"$raw/lab-tcp-$subject.txt" 2>&1 ||
      die "the lab for TCP of $subject does not come up: $(tail -n 1 "$raw/lab-tcp-$subject.txt")"
  done
}

tcp_labs_down() {
  local subject
  for subject in caracal kernel; do
    [ ! -d "/var/run/caracal/lab/$(tcp_lab $subject)" ] || "$bin/caracal" lab down --name "$(tcp_lab $subject)" >/dev/null 2>&1 || true
  done
}

# tunnel_offload on|off: on the uplinks of the kernel's nodes; off is a NIC that has none.
tunnel_offload() {
  local node
  for node in node1 node2; do
    ip netns exec "crl-$(tcp_lab kernel).node.$node" ethtool -K uplink0 tx-udp_tnl-segmentation "$1" tx-udp_tnl-csum-segmentation "$1" \
      >>"$raw/ethtool.txt" 2>&1 || die "the uplink's tunnel offload cannot be switched $1: $(tail -n 1 "$raw/ethtool.txt")"
  done
}

# stream SECONDS FILE LAB TO ADDRESS: one iperf3 stream to a pod; its report goes to the file.
stream() {
  local server
  timeout $(($1 + 30)) ip netns exec "crl-$3.pod.bench.$4" iperf3 -s -1 >>"$raw/iperf3-servers.txt" 2>&1 &
  server=$!
  within 5 sh -c "ip netns exec crl-$3.pod.bench.$4 ss -Hltn sport = :5201 | grep -q ." ||
    die "iperf3 does not listen in $4: $(tail -n 1 "$raw/iperf3-servers.txt")"
  ip netns exec "crl-$3.pod.bench.client" timeout $(($1 + 15)) iperf3 -c "$5" -t "$1" -J >"$2" 2>&1 || true
  wait "$server" || true
}

# Before it is measured for the first time, a way carries a stream for so long: our pods get their port of super-frames when
# they have had bulk TCP for two seconds, and keep it.
TCP_WARM_UP=4

tcp() { # NAME SUBJECT TO ADDRESS
  local file=$raw/${1//\//-}-$2-$round.json lab before after bits
  lab=$(tcp_lab "$2")
  ((round > 1)) || stream $TCP_WARM_UP "$file" "$lab" "$3" "$4"
  before=$(busy)
  stream "$tcp_seconds" "$file" "$lab" "$3" "$4"
  after=$(busy)
  bits=$(jq -r '.end.sum_received.bits_per_second // empty' "$file" 2>/dev/null) || true
  [ -n "$bits" ] || die "$1, $2: iperf3 measured nothing: $(jq -r .error "$file" 2>/dev/null || tail -n 1 "$file")"
  row "$1" "$2" throughput Gbit/s "$(awk "BEGIN { printf \"%.3f\", $bits / 1e9 }")"
  row "$1" "$2" "Gbit per CPU-second of the machine" Gbit/CPU-s \
    "$(awk "BEGIN { busy = $after - $before; printf \"%.3f\", (busy > 0) ? $bits * $tcp_seconds / 1e9 / busy : 0 }")"
}

tcp_round() {
  local subject order=(caracal kernel kernel-no-tunnel-offload)
  ((round % 2)) || order=(kernel-no-tunnel-offload kernel caracal)
  for subject in "${order[@]}"; do
    [ "$subject" = kernel-no-tunnel-offload ] || tcp tcp/same-node "$subject" near 10.244.1.3
    [ "$subject" != kernel-no-tunnel-offload ] || tunnel_offload off
    tcp tcp/vxlan "$subject" far 10.244.2.2
    [ "$subject" != kernel-no-tunnel-offload ] || tunnel_offload on
  done
}
