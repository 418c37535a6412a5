//! IP protocols by number and by the names that Kubernetes and Calico give them.

use std::fmt;
use std::str::FromStr;

/// An IP protocol number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);
    /// UDP-Lite, which policy matches by protocol only, not by port.
    pub const UDP_LITE: Self = Self(136);

    /// Whether its packets carry port numbers that policy can match.
    pub fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }

    /// A protocol as Kubernetes names it: exactly `TCP`, `UDP` or `SCTP`.
    pub fn from_kubernetes(name: &str) -> Option<Self> {
        match name {
            "TCP" => Some(Self::TCP),
            "UDP" => Some(Self::UDP),
            "SCTP" => Some(Self::SCTP),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ICMP => f.write_str("ICMP"),
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self::SCTP => f.write_str("SCTP"),
            Self::UDP_LITE => f.write_str("UDPLite"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// Why a text is no [`Protocol`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a protocol: TCP, UDP, SCTP, UDPLite, ICMP, ICMPv6 or a number from 1 to 255")]
pub struct ProtocolError(String);

impl FromStr for Protocol {
    type Err = ProtocolError;

    fn from_str(text: &str) -> Result<Self, ProtocolError> {
        match text {
            "ICMP" => Ok(Self::ICMP),
            "TCP" => Ok(Self::TCP),
            "UDP" => Ok(Self::UDP),
            "ICMPv6" => Ok(Self::ICMPV6),
            "SCTP" => Ok(Self::SCTP),
            "UDPLite" => Ok(Self::UDP_LITE),
            _ => match text.parse() {
                Ok(number) if number != 0 => Ok(Self(number)),
                _ => Err(ProtocolError(text.to_owned())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_round_trip() {
        for number in 1..=255u8 {
            let text = Protocol(number).to_string();
            assert_eq!(text.parse(), Ok(Protocol(number)), "{text}");
        }
        assert_eq!("6".parse(), Ok(Protocol::TCP));
        assert_eq!("UDPLite".parse(), Ok(Protocol(136)));
        assert!("tcp".parse::<Protocol>().is_err());
        assert!("0".parse::<Protocol>().is_err());
        assert!("256".parse::<Protocol>().is_err());
    }
}
