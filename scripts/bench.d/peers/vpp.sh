# VPP, where it is installed: no package of Debian 12 has it. In memory, by its own packet generator and its own clocks: what
# its nodes take for a packet, without the generator's. Not verified as the others are: the generator's packets go nowhere.

vpp_measure() {
  command -v vpp >/dev/null && command -v vppctl >/dev/null || fail "not installed, and Debian 12 has no package of it" || return
  local round vpp ns log=$raw/vpp.txt sock=$work/vpp.sock
  cat >"$work/vpp.setup" <<SETUP
create packet-generator interface pg0
create packet-generator interface pg1
set interface state pg0 up
set interface state pg1 up
set interface ip address pg0 $DUT_GEN/24
set interface ip address pg1 $DUT_SINK/24
set ip neighbor pg1 $SINK $SINK_MAC
packet-generator new { name bench limit 20000000 size 60-60 interface pg0 node ip4-input data { UDP: $GEN -> $SINK UDP: 1024 -> 9000 incrementing 18 } }
SETUP
  vpp "unix { nodaemon nobanner runtime-dir $work cli-listen $sock exec $work/vpp.setup } cpu { main-core $FWD_CPU } plugins { plugin dpdk_plugin.so { disable } }" \
    >"$log" 2>&1 &
  vpp=$!
  peer_runs vpp $vpp "$log"
  within 20 vppctl -s "$sock" show version || fail "it does not start: $(tail -n 1 "$log")" || return
  for ((round = 1; round <= rounds; round++)); do
    vppctl -s "$sock" clear runtime >>"$log"
    vppctl -s "$sock" packet-generator enable >>"$log"
    within 60 sh -c "vppctl -s $sock show packet-generator | grep -qE '^bench +No'" || fail "its generator does not end" || return
    vppctl -s "$sock" show runtime >"$raw/vpp-runtime-$round.txt"
    vppctl -s "$sock" show cpu >"$raw/vpp-cpu.txt"
    # Clocks are for each vector's packet: those of all nodes but the generator, weighted by packets, over the packets that came in.
    ns=$(awk -v ghz="$(sed -n 's/.*Base frequency: *\([0-9.]*\) *GHz.*/\1/p' "$raw/vpp-cpu.txt")" '
      $1 == "ip4-input" || $1 == "ip4-input-no-checksum" { packets += $4 }
      $2 == "active" && $1 != "pg-input" { clocks += $4 * $6 }
      END { if (packets > 0 && ghz > 0) printf "%.2f", clocks / packets / ghz }' "$raw/vpp-runtime-$round.txt")
    [ -n "$ns" ] || fail "its clocks cannot be read: see raw/vpp-runtime-$round.txt" || return
    row mem/ip4-forward vpp time ns/packet "$ns"
  done
  topology_down vpp
}
