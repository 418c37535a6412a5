# The least that an AF_XDP forwarder does (fastpath/xsk/examples/bare_forwarder.rs): what our pipeline costs beside I/O.
# Its receive is softirq work on the generator's core; it polls on the forwarder's.

bare_af_xdp_cases() { echo "forward"; }
bare_af_xdp_install() { [ -x "$bin/examples/bare_forwarder" ] || fail "the example bare_forwarder is not built"; }

bare_af_xdp_up() { # NAME CASE
  topology_up "$1" l3 || return
  ip netns exec "$(dut "$1")" "$bin/examples/bare_forwarder" --from f0 --from-mac $GEN_MAC --to f1 --to-mac $SINK_MAC --cpu $FWD_CPU \
    >"$raw/bare_forwarder-$1.json" 2>"$raw/bare_forwarder-$1.txt" &
  peer_runs "$1" $! "$raw/bare_forwarder-$1.txt"
}
