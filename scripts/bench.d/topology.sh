# Where peers forward: two veth pairs, one of each subject, and the cores that each part has. To be sourced.
#
#     crtPID-NAME-gen              crtPID-NAME-dut               crtPID-NAME-sink
#     g0 198.18.1.2 ─────────────── f0 198.18.1.1
#        generator                     forwarder
#                                   f1 198.18.2.1 ─────────────── s0 198.18.2.2
#                                                                 vx0 198.18.3.2, when the forwarder encapsulates
#
# 198.18.0.0/15 is for benchmarks (RFC 2544). Addresses and neighbours are fixed, so nobody asks for them on the way. MTU, queues
# and checksums are what Caracal's lab gives its pods, or is given there: see `like_peers` in peers/caracal.sh. Nothing here
# touches an interface that this script did not make.

GEN_MAC=02:00:00:00:01:02 F0_MAC=02:00:00:00:01:01 F1_MAC=02:00:00:00:02:01 SINK_MAC=02:00:00:00:02:02
GEN=198.18.1.2 SINK=198.18.2.2 DUT_GEN=198.18.1.1 DUT_SINK=198.18.2.1
# Inside the tunnel: whoever is at its end that the forwarder is not, and the forwarder.
INNER=198.18.3.2 INNER_DUT=198.18.3.1 INNER_MAC=02:00:00:00:03:02 INNER_DUT_MAC=02:00:00:00:03:01
VNI=4096 POD_MTU=1450 UPLINK_MTU=1500

PREFIX=crt$$
# The processes of peers, by topology, so that whoever is not measured can be stopped, and all be ended at the end.
declare -A PEER_PIDS=() PEER_LOGS=()

# Cores: the generator's, the forwarder's, the sink's, and of all that is left.
if [ "$(nproc)" -ge 4 ]; then GEN_CPU=0 FWD_CPU=1 SINK_CPU=2 REST_CPU=3; else GEN_CPU=0 FWD_CPU=1 SINK_CPU=0 REST_CPU=0; fi
[ "$(nproc)" -ge 2 ] || FWD_CPU=0

gen() { echo "$PREFIX-$1-gen"; }
dut() { echo "$PREFIX-$1-dut"; }
sink() { echo "$PREFIX-$1-sink"; }
in_dut() { ip netns exec "$(dut "$1")" "${@:2}"; }

# topology_up NAME l2|l3|encap|decap: the pairs; whom the generator addresses its frames to, and what the sink takes.
#   l2     the sink itself: the forwarder changes nothing
#   l3     the forwarder's f0, a router
#   encap  a router, too; to an address behind the tunnel's other end, which the sink's kernel is
#   decap  the generator's kernel encapsulates, to the forwarder; the sink takes plain packets
topology_up() {
  local name=$1 way=$2 gen dut sink netns
  gen=$(gen "$name") dut=$(dut "$name") sink=$(sink "$name")
  local mtu_gen=$POD_MTU mtu_sink=$POD_MTU
  case $way in encap) mtu_sink=$UPLINK_MTU ;; decap) mtu_gen=$UPLINK_MTU ;; esac
  for netns in "$gen" "$dut" "$sink"; do
    ip netns add "$netns"
    ip netns exec "$netns" sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1 \
      net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0
    ip -n "$netns" link set lo up
  done
  ip link add g0 netns "$gen" mtu "$mtu_gen" address $GEN_MAC type veth peer name f0 netns "$dut" mtu "$mtu_gen" address $F0_MAC
  ip link add s0 netns "$sink" mtu "$mtu_sink" address $SINK_MAC type veth peer name f1 netns "$dut" mtu "$mtu_sink" address $F1_MAC
  # Frames that forwarders in user space take must be whole: a veth hands checksums on half-made, which DPDK and Open vSwitch do not mend.
  ip netns exec "$gen" ethtool -K g0 tx off tso off gso off >/dev/null 2>&1
  ip -n "$gen" -batch - <<BATCH
address add $GEN/24 dev g0
link set g0 up
neighbor add $DUT_GEN lladdr $F0_MAC dev g0
BATCH
  ip -n "$sink" -batch - <<BATCH
address add $SINK/24 dev s0
link set s0 up
neighbor add $DUT_SINK lladdr $F1_MAC dev s0
BATCH
  ip -n "$dut" link set f0 up
  ip -n "$dut" link set f1 up
  # Without NAPI a veth takes no live frames.
  ip netns exec "$dut" ethtool -K f0 gro on
  case $way in
    l2)
      ip -n "$gen" route add $SINK/32 dev g0
      ip -n "$gen" neighbor add $SINK lladdr $SINK_MAC dev g0
      ;;
    l3 | encap) ip -n "$gen" route add 198.18.0.0/15 via $DUT_GEN ;;
    decap)
      tunnel_end "$gen" g0 $GEN $DUT_GEN $INNER $INNER_MAC $INNER_DUT $INNER_DUT_MAC
      ip -n "$gen" route add $SINK/32 via $INNER_DUT dev vx0
      ;;
  esac
  [ "$way" != encap ] || tunnel_end "$sink" s0 $SINK $DUT_SINK $INNER $INNER_MAC $INNER_DUT $INNER_DUT_MAC
  # A sink of its own core, whoever forwards: what the forwarder's core pays ends at the wire.
  napi_thread "$sink" s0 $SINK_CPU
}

# tunnel_end NETNS UNDERLAY LOCAL REMOTE ADDRESS MAC PEER PEER-MAC: vx0, with one peer, everything about it fixed.
tunnel_end() {
  ip -n "$1" link add vx0 mtu $POD_MTU address "$6" type vxlan id $VNI local "$3" dstport 4789 dev "$2" nolearning
  ip -n "$1" -batch - <<BATCH
address add $5/${9:-24} dev vx0
link set vx0 up
neighbor add $7 lladdr $8 dev vx0
BATCH
  bridge -n "$1" fdb append "$8" dev vx0 dst "$4"
}

# addresses NAME: what a forwarder that is a router has.
addresses() {
  ip -n "$(dut "$1")" -batch - <<BATCH
address add $DUT_GEN/24 dev f0
address add $DUT_SINK/24 dev f1
neighbor add $GEN lladdr $GEN_MAC dev f0
neighbor add $SINK lladdr $SINK_MAC dev f1
BATCH
}

# napi_thread NETNS DEVICE CPU: the device's packets are taken by a thread of its own, on that core.
napi_thread() {
  local pid before
  # The kernel names it after the device, and devices of other namespaces may have the same name: ours is the one that is new.
  before=" $(pgrep "^napi/$2-" | paste -sd' ') "
  ip netns exec "$1" ethtool -K "$2" gro on
  ip netns exec "$1" sh -c "echo 1 > /sys/class/net/$2/threaded"
  for pid in $(pgrep "^napi/$2-"); do
    case $before in *" $pid "*) ;; *) taskset -pc "$3" "$pid" >/dev/null || true ;; esac
  done
}

# peer_runs NAME PID LOG: a process that belongs to a topology.
peer_runs() { PEER_PIDS[$1]="${PEER_PIDS[$1]:-} $2" PEER_LOGS[$1]=$3; }

# Whoever is not measured is stopped: those that poll would take the core from the others.
pause() { for_pids "$1" -STOP; }
resume() { for_pids "$1" -CONT; }
for_pids() {
  local pid
  for pid in ${PEER_PIDS[$1]:-}; do kill "$2" "$pid" 2>/dev/null || true; done
}

# end_pid PID: asks, then insists.
end_pid() {
  kill -CONT "$1" 2>/dev/null || return 0
  kill -TERM "$1" 2>/dev/null || return 0
  local try
  for try in $(seq 30); do kill -0 "$1" 2>/dev/null || return 0; sleep 0.1; done
  kill -KILL "$1" 2>/dev/null || true
}

# topology_down NAME: its processes, then its namespaces, and with them its devices.
topology_down() {
  local pid netns
  for pid in ${PEER_PIDS[$1]:-}; do end_pid "$pid"; done
  unset "PEER_PIDS[$1]"
  for netns in "$(gen "$1")" "$(dut "$1")" "$(sink "$1")"; do ip netns delete "$netns" 2>/dev/null || true; done
}
