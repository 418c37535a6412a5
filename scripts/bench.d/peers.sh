# Who takes part, and who cannot. To be sourced. A peer is a file in peers/, which for each of its subjects S ("kernel-nft": functions
# are named kernel_nft_…) has
#
#   S_cases    the cases that it carries
#   S_install  installs what is missing
#   S_up NAME CASE    brings it up for a case, in a topology of that name; its processes told by peer_runs
#   S_way NAME CASE   where pktgen sends from and to, if not over that topology's ends
#
# What fails says `fail REASON`: the subject is left out, and the reason is printed, and is in skipped.json. Nothing is left out
# without.

SUBJECTS=(caracal bare-af_xdp kernel kernel-conntrack kernel-nft kernel-nft-set xdp-redirect dpdk dpdk-af_packet dpdk-l3fwd ovs)
REASON=''

fail() {
  REASON=$*
  return 1
}

call() { "${1//-/_}_$2" "${@:3}"; }
has() { declare -F "${1//-/_}_$2" >/dev/null; }

# skip SUBJECT CASE: left out, for REASON.
skip() {
  say "LEFT OUT: $1, $2: $REASON"
  jq -n --arg subject "$1" --arg case "$2" --arg reason "$REASON" '{$subject, $case, $reason}' >>"$work/skipped"
  REASON=''
}

# Huge pages for the peers that want them, and as many as before at the end.
huge_pages() {
  local before
  before=$(cat /proc/sys/vm/nr_hugepages)
  HUGE_PAGES_BEFORE=${HUGE_PAGES_BEFORE:-$before}
  wanted_pages=$((${wanted_pages:-$HUGE_PAGES_BEFORE} + $1))
  [ "$before" -ge "$wanted_pages" ] || sysctl -qw vm.nr_hugepages=$wanted_pages || true
  [ "$(cat /proc/sys/vm/nr_hugepages)" -ge "$wanted_pages" ] || fail "the machine has no $wanted_pages huge pages of 2 MiB to give"
}
huge_pages_back() { [ -z "${HUGE_PAGES_BEFORE:-}" ] || sysctl -qw vm.nr_hugepages="$HUGE_PAGES_BEFORE"; }

# unpacked PACKAGE: the files of a package of Debian's, in $UNPACKED; nothing of it is installed or started.
unpacked() {
  UNPACKED=$(realpath -m "${CARGO_TARGET_DIR:-target}/bench-peers")
  [ -e "$UNPACKED/.$1" ] && return 0
  mkdir -p "$UNPACKED/debs"
  [ -n "${apt_is_fresh:-}" ] || apt-get update -qq >/dev/null || return
  apt_is_fresh=yes
  (cd "$UNPACKED/debs" && apt-get download "$1" >/dev/null 2>&1 && dpkg -x "$1"_*.deb "$UNPACKED") || return
  touch "$UNPACKED/.$1"
}

# way_of SUBJECT NAME CASE: where pktgen sends from and to.
way_of() {
  if has "$1" way; then call "$1" way "$2" "$3"; return; fi
  local to=$SINK
  [ "$3" != vxlan-encap ] || to=$INNER
  echo "--from-netns $(gen "$2") --to-netns $(sink "$2") --to-address $to"
}

# made_by CASE: how pktgen makes and takes packets there. Live frames cannot leave by a vxlan device, which is what encapsulates for those
# who decapsulate; and what has been encapsulated they take off the wire, before the sink's kernel decapsulates.
made_by() {
  case $engine/$1 in
    live/vxlan-decap) echo "--engine socket --cores $GEN_CPU" ;;
    live/vxlan-encap) echo "--engine live --cores $GEN_CPU --to-interface s0" ;;
    *) echo "--engine $engine --cores $GEN_CPU" ;;
  esac
}

# peers_up CASE...: everybody who carries one of these cases, each in a topology of its own, verified, and stopped until its turn.
# UP gets "SUBJECT NAME CASE" of those that will take turns.
peers_up() {
  local subject case number=0
  UP=()
  for subject in "${SUBJECTS[@]}"; do
    local cases=''
    for case in "$@"; do
      case " $(call "$subject" cases) " in *" $case "*) cases+=" $case" ;; esac
    done
    [ -n "$cases" ] || continue
    if ! call "$subject" install; then skip "$subject" all; continue; fi
    for case in $cases; do
      number=$((number + 1))
      local name=p$number
      say "bringing up $subject, $case"
      if call "$subject" up "$name" "$case" && verify "$subject" "$name" "$case"; then
        UP+=("$subject $name $case")
        memory_of "$subject" "$name" "$case"
        pause "$name"
      else
        [ -z "${PEER_LOGS[$name]:-}" ] || REASON+=" (its last words: $(grep -v '^ *$' "${PEER_LOGS[$name]}" | tail -n 1))"
        skip "$subject" "$case"
        topology_down "$name"
      fi
    done
  done
}

# verify SUBJECT NAME CASE: at a low rate every packet arrives, in order, once, at the sink's own socket — so with its MAC, its address and
# right checksums — with the TTL that the peer's way of forwarding leaves. Three attempts: a machine that is busy with other things may
# keep a core from anybody for so long that a queue runs over.
verify() {
  local attempt netns
  netns=$(way_of "$@" | sed 's/.*--to-netns \([^ ]*\).*/\1/')
  for attempt in 1 2 3; do
    REASON=''
    carries "$netns" "$@" && return 0
    ip netns exec "$netns" nft delete table ip verify 2>/dev/null || true
  done
  return 1
}

carries() { # NETNS SUBJECT NAME CASE
  local netns=$1 ttl=63 file=$raw/verify-$2-$4.json counted
  shift
  # testpmd and our switch of two ports are wires; so is the bare forwarder, but for MAC addresses.
  case $1/$3 in dpdk/* | dpdk-af_packet/* | bare-af_xdp/* | ovs/forward) ttl=64 ;; esac
  ip netns exec "$netns" nft "table ip verify { counter arrived {}; counter right {}; chain input { type filter hook input priority filter;
    udp dport 9000 counter name arrived; udp dport 9000 ip ttl $ttl counter name right; }; }" || fail "nftables cannot count at the sink" || return
  # shellcheck disable=SC2046
  "$bin/pktgen" run -q $(way_of "$@") --flows 8 --rate 2k --duration 250ms --wait 10s --linger 200ms --output json >"$file" 2>>"$raw/pktgen-verify.txt" ||
    fail "pktgen: $(tail -n 1 "$raw/pktgen-verify.txt")" || return
  counted=$(ip netns exec "$netns" nft -j list counters table ip verify | jq -c '[.nftables[].counter | select(. != null) | {(.name): .packets}] | add')
  ip netns exec "$netns" nft delete table ip verify
  jq -e '.total.sent > 0 and .total.received == .total.sent and .total.duplicated == 0 and .total.reordered == 0' "$file" >/dev/null ||
    fail "it does not carry what it should: $(jq -c .total "$file"), counted at the sink: $counted" || return
  jq -ne --argjson c "$counted" '$c.right > 0 and $c.arrived == $c.right' >/dev/null ||
    fail "packets do not come with TTL $ttl: $counted" || return
}

# memory_of SUBJECT NAME CASE: resident, huge pages included; of processes: what a kernel's peer takes is the kernel's.
memory_of() {
  local pid pids kilobytes=0
  if has "$1" pids; then pids=$(call "$1" pids); else pids=${PEER_PIDS[$2]:-}; fi
  for pid in $pids; do
    [ -r "/proc/$pid/status" ] || continue
    kilobytes=$((kilobytes + $(awk '/^(VmRSS|HugetlbPages):/ { sum += $2 } END { print sum + 0 }' "/proc/$pid/status")))
  done
  [ $kilobytes = 0 ] || row "memory/$3" "$1" resident MiB "$(awk "BEGIN { printf \"%.1f\", $kilobytes / 1024 }")"
}

peers_down() {
  local name
  for name in "${!PEER_PIDS[@]}"; do topology_down "$name"; done
  for name in $(ip netns list | awk -v p="^$PREFIX-" '$1 ~ p { print $1 }'); do ip netns delete "$name" 2>/dev/null || true; done
  caracal_down
  huge_pages_back
}
