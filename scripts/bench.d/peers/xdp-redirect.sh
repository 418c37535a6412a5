# A router of one BPF program, in the kernel's driver hook: fib_lookup and redirect. The least that forwarding costs on a veth.

xdp_redirect_cases() { echo "forward"; }

xdp_redirect_install() {
  install_packages clang linux-libc-dev libc6-dev || return
  clang -O2 -g -target bpf -Wall -Wextra -Werror -I"/usr/include/$(uname -m)-linux-gnu" -c "$BENCH/peers/xdp_redirect.c" \
    -o "$work/xdp_redirect.o" 2>>"$raw/xdp_redirect.txt" || fail "clang does not compile xdp_redirect.c: see raw/xdp_redirect.txt"
}

xdp_redirect_up() { # NAME CASE
  topology_up "$1" l3 || return
  addresses "$1"
  in_dut "$1" sysctl -qw net.ipv4.ip_forward=1
  ip -n "$(dut "$1")" link set dev f0 xdpdrv obj "$work/xdp_redirect.o" sec xdp >>"$raw/xdp_redirect.txt" 2>&1 ||
    fail "the kernel does not take the program: $(tail -n 1 "$raw/xdp_redirect.txt")" || return
  napi_thread "$(dut "$1")" f0 $FWD_CPU
}
