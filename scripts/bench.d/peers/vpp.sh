# VPP, where it is installed: no package of Debian 12 has it. By its own packet generator, so in memory, and with its own clocks.

vpp_cases() { echo "memory"; }
vpp_install() { command -v vpp >/dev/null && command -v vppctl >/dev/null || fail "not installed, and Debian 12 has no package of it"; }
