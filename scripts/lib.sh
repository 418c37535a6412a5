# What the scripts share: saying what goes on, and installing what is missing. To be sourced.
# Every function is idempotent: what is there already is left alone.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -t 1 ]; then BOLD=$(printf '\033[1m') RED=$(printf '\033[31m') PLAIN=$(printf '\033[0m'); else BOLD='' RED='' PLAIN=''; fi

# say TEXT: what is being done now.
say() { printf '%s==> %s%s\n' "$BOLD" "$*" "$PLAIN"; }

# die TEXT: one clear line, and the exit status for "could not do it".
die() {
  printf '%s%s: %s%s\n' "$RED" "$(basename "$0")" "$*" "$PLAIN" >&2
  exit 2
}

need_root() { [ "$(id -u)" = 0 ] || die "must be run as root: it makes network namespaces and loads XDP programs"; }

# install_packages PACKAGE…: those that are not installed, by apt.
install_packages() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return 0
  command -v apt-get >/dev/null || die "needs ${missing[*]}, and there is no apt-get to install them with"
  say "installing ${missing[*]}"
  apt-get update -qq >/dev/null || die "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install ${missing[*]}"
}

# install_build_deps: a C compiler, clang for the XDP programs, and a Rust toolchain that is new enough.
install_build_deps() {
  install_packages gcc libc6-dev linux-libc-dev clang ca-certificates curl git
  [ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
  if ! command -v cargo >/dev/null; then
    say "installing Rust by rustup"
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy >/dev/null ||
      die "Rust could not be installed; install it from https://rustup.rs and try again"
    . "$HOME/.cargo/env"
  fi
  local wanted have
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml")
  have=$(rustc --version | cut -d' ' -f2)
  [ "$(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -n 1)" = "$wanted" ] ||
    die "needs Rust $wanted or newer, and this is $have: run 'rustup update stable'"
}

# install_lab_tools: what the lab, the demo and the tests run inside their namespaces.
install_lab_tools() {
  install_packages iproute2 iputils-ping nftables iptables procps traceroute iperf3 ethtool containernetworking-plugins
}

# install_chart_tools: Go, and the libraries that Helm is made of, for scripts/render-chart.
install_chart_tools() {
  install_packages golang-go golang-github-masterminds-sprig-dev golang-github-ghodss-yaml-dev \
    golang-github-xeipuuv-gojsonschema-dev
}

# unpacked PACKAGE: prints the folder under the target directory where Debian's package is unpacked, beside whatever is
# installed. Nothing of it is set up or started.
unpacked() {
  local folder=${CARGO_TARGET_DIR:-$ROOT/target}/packages/$1 fresh
  if [ ! -d "$folder" ]; then
    mkdir -p "$(dirname "$folder")"
    fresh=$(mktemp -d -p "$(dirname "$folder")")
    if ! (
      cd "$fresh" &&
        { apt-get download -q "$1" || { apt-get update -q && apt-get download -q "$1"; }; } &&
        dpkg -x ./*.deb . && rm ./*.deb
    ) >&2; then
      rm -rf "$fresh"
      die "apt-get cannot download $1; see above"
    fi
    # Of several at once one wins; its copy is as good as ours.
    mv -T "$fresh" "$folder" 2>/dev/null || rm -rf "$fresh"
  fi
  echo "$folder"
}

# find_kubectl: prints a kubectl, the one on the PATH or Debian's 1.20.
find_kubectl() {
  command -v kubectl 2>/dev/null && return 0
  "$ROOT/scripts/kubectl-1.20"
}
