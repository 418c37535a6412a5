# DPDK, of Debian, polling on the forwarder's core:
#   dpdk            testpmd's io mode over net_af_xdp: nothing of a packet is looked at
#   dpdk-af_packet  the same over net_af_packet
#   dpdk-l3fwd      l3fwd (longest match, MAC addresses, TTL) over net_af_xdp; built from the sources in the package
#                   dpdk-doc, its request of checksums checked by the port taken out

dpdk_cases() { echo "forward"; }
dpdk_af_packet_cases() { echo "forward"; }
dpdk_l3fwd_cases() { echo "forward"; }

dpdk_install() {
  install_packages dpdk-dev pkg-config || fail "apt has no dpdk-dev" || return
  command -v dpdk-testpmd >/dev/null || fail "dpdk-dev has no dpdk-testpmd" || return
  huge_pages 150
}
dpdk_af_packet_install() { dpdk_install; }

dpdk_l3fwd_install() {
  dpdk_install && install_packages gcc libc6-dev || return
  local sources=/usr/share/dpdk/examples
  if [ ! -d $sources/l3fwd ]; then
    unpacked dpdk-doc || fail "apt has no dpdk-doc, which carries the sources of l3fwd" || return
    sources=$UNPACKED/usr/share/dpdk/examples
  fi
  [ -d "$sources/l3fwd" ] || fail "dpdk-doc does not carry the sources of l3fwd" || return
  local with
  with=$(pkg-config --cflags --libs libdpdk) || fail "pkg-config does not know libdpdk" || return
  cp -r "$sources" "$work/examples"
  # It asks its ports to check checksums, which no veth does for AF_XDP; all else is as it comes.
  sed -i 's/RTE_ETH_RX_OFFLOAD_CHECKSUM/0/' "$work/examples/l3fwd/main.c"
  # Those that are left out are included by others. shellcheck disable=SC2046,SC2086
  gcc -O3 -march=native -w -I"$work/examples/common" -o "$work/l3fwd" \
    $(find "$work/examples/l3fwd" -name '*.c' ! -name '*_route_parse.c') $with >>"$raw/l3fwd-build.txt" 2>&1 ||
    fail "l3fwd does not build: $(grep -m 1 -i error "$raw/l3fwd-build.txt")"
}

# What EAL is told beside its cores: its own memory only.
eal() { echo "-l $1 --in-memory --no-pci --no-telemetry -m 256"; }

af_xdp() { echo "--vdev net_af_xdp0,iface=f0,force_copy=1 --vdev net_af_xdp1,iface=f1,force_copy=1"; }

testpmd() { # NAME VDEVS
  topology_up "$1" l2 || return
  # shellcheck disable=SC2046,SC2086
  ip netns exec "$(dut "$1")" dpdk-testpmd $(eal "$REST_CPU,$FWD_CPU") --main-lcore $REST_CPU $2 -- --forward-mode=io --auto-start --nb-cores=1 --total-num-mbufs=16384 \
    --rxd=2048 --txd=2048 --no-flush-rx --stats-period 3600 >"$raw/testpmd-$1.txt" 2>&1 &
  peer_runs "$1" $! "$raw/testpmd-$1.txt"
}

dpdk_up() { testpmd "$1" "$(af_xdp)"; }
dpdk_af_packet_up() { testpmd "$1" "--vdev net_af_packet0,iface=f0 --vdev net_af_packet1,iface=f1"; }

dpdk_l3fwd_up() { # NAME CASE
  topology_up "$1" l3 || return
  printf 'R198.18.1.0/24 0\nR198.18.2.0/24 1\n' >"$work/l3fwd-routes"
  printf 'R0100:0000:0000:0000:0000:0000:0000:0000/16 0\n' >"$work/l3fwd-routes-v6"
  # On one core alone: it wants a transmit queue for each, and the driver has one.
  # shellcheck disable=SC2046
  ip netns exec "$(dut "$1")" "$work/l3fwd" $(eal $FWD_CPU) $(af_xdp) -- -p 0x3 -P --lookup=lpm --parse-ptype \
    --config="(0,0,$FWD_CPU),(1,0,$FWD_CPU)" --eth-dest=0,$GEN_MAC --eth-dest=1,$SINK_MAC \
    --rule_ipv4="$work/l3fwd-routes" --rule_ipv6="$work/l3fwd-routes-v6" >"$raw/l3fwd-$1.txt" 2>&1 &
  peer_runs "$1" $! "$raw/l3fwd-$1.txt"
}
