# Open vSwitch's userspace datapath over DPDK's net_af_xdp, one polling thread: an L2 forward, and VXLAN in and out.
# Its daemons, database and sockets are its own, in a folder of this run: an Open vSwitch of the system is neither asked nor touched.

ovs_cases() { echo "forward vxlan-encap vxlan-decap"; }

ovs_install() {
  install_packages dpdk-dev libunbound8 libxdp1 libcap-ng0 || fail "apt has not got the libraries of Open vSwitch" || return
  huge_pages 450 || return
  local package
  # Unpacked, not installed: the packages would start a switch of the system.
  for package in openvswitch-common openvswitch-switch openvswitch-switch-dpdk; do
    unpacked $package || fail "apt has no $package" || return
  done
  ovs=$UNPACKED
  "$ovs/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk" --version >"$raw/ovs-version.txt" 2>&1 ||
    fail "ovs-vswitchd does not run: $(tail -n 1 "$raw/ovs-version.txt")"
}

ovs_tool() { # NAME TOOL ARGUMENT...
  local name=$1 tool=$2
  shift 2
  OVS_RUNDIR=$work/ovs-$name timeout 20 ip netns exec "$(dut "$name")" "$ovs/usr/bin/$tool" "$@" >>"$raw/ovs-$name-setup.txt" 2>&1 ||
    fail "$tool $1: $(tail -n 1 "$raw/ovs-$name-setup.txt")"
}
ovs_vsctl() { ovs_tool "$1" ovs-vsctl --db="unix:$work/ovs-$1/db.sock" "${@:2}"; }
ovs_appctl() { ovs_tool "$1" ovs-appctl -t "$work/ovs-$1/vswitchd.ctl" "${@:2}"; }

ovs_up() { # NAME CASE
  local name=$1 way=l2 dir=$work/ovs-$1
  case $2 in vxlan-encap) way=encap ;; vxlan-decap) way=decap ;; esac
  topology_up "$name" $way || return
  mkdir -p "$dir"
  local netns log=$raw/ovs-$name.txt
  netns=$(dut "$name")
  "$ovs/usr/bin/ovsdb-tool" create "$dir/conf.db" "$ovs/usr/share/openvswitch/vswitch.ovsschema" >>"$log" 2>&1 ||
    fail "its database cannot be made" || return
  OVS_RUNDIR=$dir ip netns exec "$netns" "$ovs/usr/sbin/ovsdb-server" "$dir/conf.db" --remote="punix:$dir/db.sock" \
    --pidfile="$dir/db.pid" --unixctl="$dir/db.ctl" -vconsole:warn >>"$log" 2>&1 &
  local database=$!
  peer_runs "$name" $database "$log"
  within 5 test -S "$dir/db.sock" || fail "ovsdb-server does not start: $(tail -n 1 "$log")" || return
  ovs_vsctl "$name" --no-wait init || return
  ovs_vsctl "$name" --no-wait set Open_vSwitch . other_config:per-port-memory=true other_config:dpdk-init=true \
    other_config:dpdk-extra="--in-memory --no-pci --no-telemetry -m 256" other_config:pmd-cpu-mask="$(printf %x $((1 << FWD_CPU)))" \
    other_config:dpdk-lcore-mask="$(printf %x $((1 << REST_CPU)))" other_config:max-idle=600000 || return
  OVS_RUNDIR=$dir ip netns exec "$netns" "$ovs/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk" "unix:$dir/db.sock" \
    --pidfile="$dir/vswitchd.pid" --unixctl="$dir/vswitchd.ctl" -vconsole:warn >>"$log" 2>&1 &
  peer_runs "$name" $! "$log"
  within 10 test -S "$dir/vswitchd.ctl" || fail "ovs-vswitchd does not start: $(tail -n 1 "$log")" || return

  ovs_vsctl "$name" add-br br0 -- set bridge br0 datapath_type=netdev fail-mode=secure || return
  case $way in
    l2)
      ovs_port "$name" br0 f0 1 && ovs_port "$name" br0 f1 2 || return
      ovs_flow "$name" br0 in_port=1,actions=output:2 && ovs_flow "$name" br0 in_port=2,actions=output:1
      ;;
    encap) ovs_tunnel "$name" f0 f1 $F1_MAC $DUT_SINK $SINK $SINK_MAC ;;
    decap) ovs_tunnel "$name" f1 f0 $F0_MAC $DUT_GEN $GEN $GEN_MAC ;;
  esac
}

ovs_port() { # NAME BRIDGE DEVICE NUMBER
  ovs_vsctl "$1" add-port "$2" "$3" -- set Interface "$3" type=dpdk ofport_request="$4" \
    "options:dpdk-devargs=net_af_xdp$3,iface=$3,force_copy=1" || return
}

ovs_flow() { ovs_tool "$1" ovs-ofctl add-flow "unix:$work/ovs-$1/$2.mgmt" "$3"; }

# br0 has the plain side and the tunnel; phy0 has the tunnel's underlay, and is the host that the tunnel ends at.
ovs_tunnel() { # NAME PLAIN UNDERLAY UNDERLAY-MAC LOCAL REMOTE REMOTE-MAC
  local name=$1 dir=$work/ovs-$1
  ovs_vsctl "$name" add-br phy0 -- set bridge phy0 datapath_type=netdev fail-mode=standalone "other_config:hwaddr=\"$4\"" || return
  ovs_port "$name" br0 "$2" 1 && ovs_port "$name" phy0 "$3" 1 || return
  ovs_vsctl "$name" add-port br0 vx -- set Interface vx type=vxlan ofport_request=2 "options:remote_ip=$6" "options:local_ip=$5" \
    "options:key=$VNI" || return
  ip -n "$(dut "$name")" address add "$5/24" dev phy0 && ip -n "$(dut "$name")" link set phy0 up || fail "phy0 cannot be set up" || return
  ovs_appctl "$name" ovs/route/add "$6/32" phy0 || return
  ovs_appctl "$name" tnl/arp/set phy0 "$6" "$7" || return
  # A router's work on the inner packet: MAC addresses and TTL.
  if [ "$2" = f0 ]; then
    ovs_flow "$name" br0 "in_port=1,ip,actions=mod_dl_src:$INNER_DUT_MAC,mod_dl_dst:$INNER_MAC,dec_ttl,output:2" || return
  else
    ovs_flow "$name" br0 "in_port=2,ip,actions=mod_dl_src:$F1_MAC,mod_dl_dst:$SINK_MAC,dec_ttl,output:1" || return
  fi
}
