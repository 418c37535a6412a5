//! How long flows live without a packet. Calico's eBPF data plane's figures (and the kernel's where it has none).

use crate::flow::tcp::State;

const SECOND_MS: u32 = 1000;

/// A TCP connection that has been opened, but not answered.
pub const TCP_OPENING_MS: u32 = 20 * SECOND_MS;
/// An established TCP connection.
pub const TCP_ESTABLISHED_MS: u32 = 3600 * SECOND_MS;
/// A TCP connection with FIN seen from both sides.
pub const TCP_CLOSED_MS: u32 = 30 * SECOND_MS;
/// A TCP connection that was reset.
pub const TCP_RESET_MS: u32 = 40 * SECOND_MS;
/// UDP.
pub const UDP_MS: u32 = 60 * SECOND_MS;
/// ICMP echo.
pub const ICMP_MS: u32 = 5 * SECOND_MS;
/// Everything else.
pub const GENERIC_MS: u32 = 600 * SECOND_MS;

/// Milliseconds that a flow in this state lives without a packet.
#[inline]
#[must_use]
pub const fn for_flow(protocol: u8, state: State) -> u32 {
    match (protocol, state) {
        (6, State::Opening | State::Answered) => TCP_OPENING_MS,
        (6, State::Reset) => TCP_RESET_MS,
        (6, State::Closed) => TCP_CLOSED_MS,
        // A half-closed connection may carry data for as long as an open one.
        (6, _) => TCP_ESTABLISHED_MS,
        (17, _) => UDP_MS,
        (1 | 58, _) => ICMP_MS,
        _ => GENERIC_MS,
    }
}
