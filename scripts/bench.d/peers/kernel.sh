# Linux itself, on one core: a threaded NAPI does receive, route and transmit.
#   kernel            ip_forward; its vxlan device
#   kernel-conntrack  ip_forward, every flow tracked, and established ones accepted
#   kernel-nft        ip_forward, and N rules of an nftables chain, of which the last one allows the packets
#   kernel-nft-set    the same N as one set

kernel_cases() { echo "forward vxlan-encap vxlan-decap"; }
kernel_conntrack_cases() { echo "forward"; }
kernel_nft_cases() { echo "policy-100 policy-1000"; }
kernel_nft_set_cases() { echo "policy-100 policy-1000"; }

kernel_install() { install_packages nftables; }
kernel_conntrack_install() { kernel_install; }
kernel_nft_install() { kernel_install; }
kernel_nft_set_install() { kernel_install; }

kernel_up() { # NAME CASE
  case $2 in
    vxlan-encap)
      topology_up "$1" encap || return
      addresses "$1"
      tunnel_end "$(dut "$1")" f1 $DUT_SINK $SINK $INNER_DUT $INNER_DUT_MAC $INNER $INNER_MAC
      ;;
    vxlan-decap)
      topology_up "$1" decap || return
      addresses "$1"
      tunnel_end "$(dut "$1")" f0 $DUT_GEN $GEN $INNER_DUT $INNER_DUT_MAC $INNER $INNER_MAC
      ;;
    *) topology_up "$1" l3 && addresses "$1" ;;
  esac || return
  in_dut "$1" sysctl -qw net.ipv4.ip_forward=1 || fail "ip_forward cannot be switched on" || return
  napi_thread "$(dut "$1")" f0 $FWD_CPU
  napi_thread "$(dut "$1")" f1 $FWD_CPU
}

kernel_conntrack_up() {
  kernel_up "$1" "$2" || return
  in_dut "$1" nft 'table ip bench { chain forward { type filter hook forward priority filter; policy drop; ct state established,related accept; ip saddr 198.18.1.0/24 accept; }; }' ||
    fail "nftables has no conntrack here"
}

kernel_nft_up() {
  kernel_up "$1" "$2" || return
  {
    echo 'table ip bench { chain forward { type filter hook forward priority filter; policy drop;'
    rule_sources "${2#policy-}" | while read -r source; do echo "ip saddr $source udp dport 9000 accept;"; done
    echo '}; }'
  } >"$work/nft-$1"
  in_dut "$1" nft -f "$work/nft-$1" || fail "nftables does not take the rules"
}

kernel_nft_set_up() {
  kernel_up "$1" "$2" || return
  in_dut "$1" nft -f - <<NFT || fail "nftables does not take the set"
table ip bench {
  set sources { type ipv4_addr; elements = { $(rule_sources "${2#policy-}" | paste -sd,) }; }
  chain forward { type filter hook forward priority filter; policy drop; ip saddr @sources udp dport 9000 accept; }
}
NFT
}

# rule_sources N [LAST]: the sources that N rules name, the generator's last.
rule_sources() {
  local number
  for ((number = 1; number < $1; number++)); do echo "203.0.$((number / 250)).$((number % 250 + 1))"; done
  echo "${2:-$GEN}"
}
