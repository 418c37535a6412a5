# The product, in a lab: pods on two nodes, of which node1 forwards with Caracal, pinned to the forwarder's core, and node2 with
# Linux, so that what is measured is one node of ours. Its receive from pods is softirq work on the generator's core.

caracal_cases() { echo "forward policy-100 policy-1000 vxlan-encap vxlan-decap"; }
caracal_install() { install_lab_tools; }

caracal_lab=crt$$

# One lab for every case: the pods that policy judges are others than those that it does not.
caracal_up() { # NAME CASE
  [ -z "${caracal_is_up:-}" ] || return 0
  local rules pod
  {
    echo 'name: bench'
    echo 'lab: {kernelNodes: [node2]}'
    echo 'objects:'
    bench_pod client node1 10.244.1.2
    bench_pod near node1 10.244.1.3
    bench_pod far node2 10.244.2.2
    for rules in 100 1000; do
      bench_pod "rules-$rules" node1 "10.244.1.$((rules == 100 ? 4 : 5))"
      echo "  - apiVersion: projectcalico.org/v3"
      echo "    kind: NetworkPolicy"
      echo "    metadata: {name: rules-$rules, namespace: bench}"
      echo "    spec:"
      echo "      selector: name == 'rules-$rules'"
      echo "      types: [Ingress]"
      echo "      ingress:"
      rule_sources $rules 10.244.1.2 | while read -r source; do
        echo "        - {action: Allow, protocol: UDP, source: {nets: [$source/32]}, destination: {ports: [9000]}}"
      done
    done
    echo 'flows:'
    echo '  - {from: bench/client, to: bench/near, protocol: ICMP, icmp: {type: 8, code: 0}, expect: allow}'
  } >"$raw/caracal.yaml"
  taskset -c $FWD_CPU "$bin/caracal" lab up --name $caracal_lab "$raw/caracal.yaml" >"$raw/lab.txt" 2>&1 ||
    fail "the lab does not come up: $(tail -n 1 "$raw/lab.txt")" || return
  caracal_is_up=yes
  for pod in client near rules-100 rules-1000; do like_peers "crl-$caracal_lab.pod.bench.$pod" eth0; done
  caracal_tunnel_end
}

# The other end of node1's uplink leaves the lab's fabric and becomes what the peers' sinks are: one veth, and a tunnel's end of
# Linux behind it, with the addresses that node2 and its pod had. So nobody's packets pass more devices than anybody else's.
caracal_tunnel_end() {
  local far=$PREFIX-caracal-sink vtep node2=crl-$caracal_lab.node.node2 vtep1
  vtep=$(ip -n "$node2" -j link show vxlan.calico | jq -r '.[0].address')
  vtep1=$(ip -n "$node2" -j neighbor show dev vxlan.calico | jq -r '.[] | select(.dst == "10.244.1.0") | .lladdr')
  ip netns add "$far" && ip -n "crl-$caracal_lab.fabric" link set n0 name s0 netns "$far" || fail "node1's uplink cannot be given another end" || return
  ip -n "$far" link set lo up
  ip netns exec "$far" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
  ip -n "$far" address add 192.0.2.12/24 dev s0 && ip -n "$far" link set s0 up
  tunnel_end "$far" s0 192.0.2.12 192.0.2.11 10.244.2.2 "$vtep" 10.244.1.0 "$vtep1" 32
  ip -n "$far" route add 10.244.1.0/24 via 10.244.1.0 dev vx0 onlink
  like_peers "$far" s0
}

bench_pod() { # NAME NODE ADDRESS
  echo "  - {apiVersion: v1, kind: Pod, metadata: {name: $1, namespace: bench, labels: {name: $1}}, spec: {nodeName: $2, containers: [{name: c, image: any}]}, status: {podIPs: [{ip: $3}]}}"
}

# As topology.sh has its own ends: whole checksums, and a sink with a core of its own.
like_peers() { # NETNS DEVICE
  ip netns exec "$1" ethtool -K "$2" tx off tso off gso off >/dev/null 2>&1
  napi_thread "$1" "$2" $SINK_CPU
}

caracal_way() { # NAME CASE
  local pod=crl-$caracal_lab.pod.bench far=$PREFIX-caracal-sink
  case $2 in
    forward) echo "--from-netns $pod.client --to-netns $pod.near --to-address 10.244.1.3" ;;
    policy-100) echo "--from-netns $pod.client --to-netns $pod.rules-100 --to-address 10.244.1.4" ;;
    policy-1000) echo "--from-netns $pod.client --to-netns $pod.rules-1000 --to-address 10.244.1.5" ;;
    vxlan-encap) echo "--from-netns $pod.client --to-netns $far --to-address 10.244.2.2" ;;
    vxlan-decap) echo "--from-netns $far --to-netns $pod.near --to-address 10.244.1.3" ;;
  esac
}

caracal_pids() { pgrep -f "caracal-fastpath.*$caracal_lab" || true; }

caracal_down() {
  [ -d "/var/run/caracal/lab/$caracal_lab" ] || return 0
  "$bin/caracal" fastpath counters --lab "$caracal_lab/node1" >"$raw/counters-node1.txt" 2>&1 || true
  "$bin/caracal" fastpath drops --lab "$caracal_lab/node1" >"$raw/drops-node1.txt" 2>&1 || true
  "$bin/caracal" lab down --name "$caracal_lab" >/dev/null 2>&1 || true
}
