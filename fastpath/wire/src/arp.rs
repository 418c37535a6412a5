//! Address resolution for IPv4 over Ethernet (RFC 826).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |     Hardware type (1)         |     Protocol type (0x0800)    |
//! +---------------+---------------+-------------------------------+
//! | HW length (6) | P length (4)  |     Operation                 |
//! +---------------+---------------+-------------------------------+
//! |     Sender hardware address (6), sender protocol address (4)  |
//! |     Target hardware address (6), target protocol address (4)  |
//! +---------------------------------------------------------------+
//! ```

use core::fmt;
use core::net::Ipv4Addr;
use core::ops::Range;

use crate::bytes::{array_at, put_u16, u16_at};
use crate::{MacAddr, Malformed};

/// Offsets of the fields.
pub mod field {
    use super::Range;
    /// Hardware type, protocol type and the two lengths, which are the same in every packet that we read.
    pub const PREAMBLE: Range<usize> = 0..6;
    /// Operation.
    pub const OPERATION: Range<usize> = 6..8;
    /// Sender's Ethernet address.
    pub const SENDER_MAC: Range<usize> = 8..14;
    /// Sender's IPv4 address.
    pub const SENDER_ADDR: Range<usize> = 14..18;
    /// Target's Ethernet address.
    pub const TARGET_MAC: Range<usize> = 18..24;
    /// Target's IPv4 address.
    pub const TARGET_ADDR: Range<usize> = 24..28;
}

/// Length of the packet.
pub const PACKET_LEN: usize = 28;

/// Ethernet, IPv4, six and four bytes.
const PREAMBLE: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// What an ARP packet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Operation(pub u16);

impl Operation {
    /// Who has it?
    pub const REQUEST: Operation = Operation(1);
    /// I have it.
    pub const REPLY: Operation = Operation(2);
}

/// A checked ARP packet for IPv4 over Ethernet.
#[derive(Debug, Clone, Copy)]
pub struct Arp<T> {
    bytes: T,
}

impl<T: AsRef<[u8]>> Arp<T> {
    /// Checks length and address kinds. Padding may follow.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Malformed> {
        let all = bytes.as_ref();
        if all.len() < PACKET_LEN {
            Err(Malformed::ArpTooShort)
        } else if all[field::PREAMBLE] != PREAMBLE {
            Err(Malformed::ArpNotIpv4OverEthernet)
        } else {
            Ok(Arp { bytes })
        }
    }

    /// What the packet does.
    #[inline]
    pub fn operation(&self) -> Operation {
        Operation(u16_at(self.bytes.as_ref(), field::OPERATION))
    }

    /// The sender's Ethernet address.
    #[inline]
    pub fn sender_mac(&self) -> MacAddr {
        MacAddr(array_at(self.bytes.as_ref(), field::SENDER_MAC))
    }

    /// The sender's IPv4 address.
    #[inline]
    pub fn sender_addr(&self) -> Ipv4Addr {
        Ipv4Addr::from(array_at::<4>(self.bytes.as_ref(), field::SENDER_ADDR))
    }

    /// The target's Ethernet address; in a request it says nothing.
    #[inline]
    pub fn target_mac(&self) -> MacAddr {
        MacAddr(array_at(self.bytes.as_ref(), field::TARGET_MAC))
    }

    /// The target's IPv4 address.
    #[inline]
    pub fn target_addr(&self) -> Ipv4Addr {
        Ipv4Addr::from(array_at::<4>(self.bytes.as_ref(), field::TARGET_ADDR))
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Arp<T> {
    /// Sets what the packet does.
    #[inline]
    pub fn set_operation(&mut self, operation: Operation) {
        put_u16(self.bytes.as_mut(), field::OPERATION, operation.0);
    }

    /// Sets the sender.
    #[inline]
    pub fn set_sender(&mut self, mac: MacAddr, addr: Ipv4Addr) {
        self.bytes.as_mut()[field::SENDER_MAC].copy_from_slice(&mac.0);
        self.bytes.as_mut()[field::SENDER_ADDR].copy_from_slice(&addr.octets());
    }

    /// Sets the target.
    #[inline]
    pub fn set_target(&mut self, mac: MacAddr, addr: Ipv4Addr) {
        self.bytes.as_mut()[field::TARGET_MAC].copy_from_slice(&mac.0);
        self.bytes.as_mut()[field::TARGET_ADDR].copy_from_slice(&addr.octets());
    }
}

/// An ARP packet as plain values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repr {
    /// What the packet does.
    pub operation: Operation,
    /// The sender's Ethernet address.
    pub sender_mac: MacAddr,
    /// The sender's IPv4 address.
    pub sender_addr: Ipv4Addr,
    /// The target's Ethernet address.
    pub target_mac: MacAddr,
    /// The target's IPv4 address.
    pub target_addr: Ipv4Addr,
}

impl Repr {
    /// Reads the packet at the start of `bytes`.
    pub fn parse(bytes: &[u8]) -> Result<Repr, Malformed> {
        let arp = Arp::new_checked(bytes)?;
        Ok(Repr {
            operation: arp.operation(),
            sender_mac: arp.sender_mac(),
            sender_addr: arp.sender_addr(),
            target_mac: arp.target_mac(),
            target_addr: arp.target_addr(),
        })
    }

    /// The answer to this request from whoever has `mac`.
    pub fn reply_from(&self, mac: MacAddr) -> Repr {
        Repr {
            operation: Operation::REPLY,
            sender_mac: mac,
            sender_addr: self.target_addr,
            target_mac: self.sender_mac,
            target_addr: self.sender_addr,
        }
    }

    /// Bytes that [`emit`](Repr::emit) writes.
    #[inline]
    pub const fn buffer_len(&self) -> usize {
        PACKET_LEN
    }

    /// Writes the packet at the start of `bytes`.
    pub fn emit(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let bytes = bytes.get_mut(..PACKET_LEN).ok_or(Malformed::ArpTooShort)?;
        bytes[field::PREAMBLE].copy_from_slice(&PREAMBLE);
        let mut arp = Arp { bytes };
        arp.set_operation(self.operation);
        arp.set_sender(self.sender_mac, self.sender_addr);
        arp.set_target(self.target_mac, self.target_addr);
        Ok(())
    }
}

impl fmt::Display for Repr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.operation {
            Operation::REQUEST => {
                write!(f, "arp who-has {} tell {} ({})", self.target_addr, self.sender_addr, self.sender_mac)
            }
            Operation::REPLY => write!(f, "arp {} is-at {}", self.sender_addr, self.sender_mac),
            Operation(number) => write!(f, "arp operation {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::string::ToString;

    use super::*;

    const REQUEST: Repr = Repr {
        operation: Operation::REQUEST,
        sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        sender_addr: Ipv4Addr::new(10, 244, 1, 2),
        target_mac: MacAddr::ZERO,
        target_addr: Ipv4Addr::new(169, 254, 1, 1),
    };

    #[test]
    fn repr_round_trips() {
        let mut bytes = [0xaa; PACKET_LEN];
        REQUEST.emit(&mut bytes).unwrap();
        assert_eq!(Repr::parse(&bytes), Ok(REQUEST));
    }

    #[test]
    fn reply_names_the_asked_address_and_goes_to_the_asker() {
        let reply = REQUEST.reply_from(MacAddr([0xee; 6]));
        assert_eq!(reply.to_string(), "arp 169.254.1.1 is-at ee:ee:ee:ee:ee:ee");
        assert_eq!((reply.target_mac, reply.target_addr), (REQUEST.sender_mac, REQUEST.sender_addr));
    }

    #[test]
    fn parse_rejects_other_address_kinds() {
        let mut bytes = [0; PACKET_LEN];
        REQUEST.emit(&mut bytes).unwrap();
        for at in field::PREAMBLE {
            let mut other = bytes;
            other[at] ^= 0x10;
            assert_eq!(Repr::parse(&other), Err(Malformed::ArpNotIpv4OverEthernet));
        }
        assert_eq!(Repr::parse(&bytes[..27]), Err(Malformed::ArpTooShort));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), real in any::<bool>()) {
            if real && bytes.len() >= 6 {
                bytes[..6].copy_from_slice(&PREAMBLE);
            }
            if let Ok(repr) = Repr::parse(&bytes) {
                let before = bytes.clone();
                repr.emit(&mut bytes).unwrap();
                prop_assert_eq!(before, bytes);
                let _ = repr.to_string();
            }
        }
    }
}
