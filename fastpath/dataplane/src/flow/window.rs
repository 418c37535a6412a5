//! Whether a TCP segment is within the windows of its connection, as far as somebody in the middle can know (van Rooij,
//! "Real Stateful TCP Packet Filtering in IP Filter", 2001, for whom the boundaries are named).
//!
//! ```text
//!        sender's data:  ──── end − receiver's window ────────── end ───────── most ────
//!                              II: a segment ends not before      I: and begins not beyond what the receiver has asked for
//!        its ACK:             IV: not long past data              III: data that the receiver has sent
//! ```
//!
//! Only connections whose both SYNs have been seen are judged: of others the scale of the windows is not known, so all
//! of their segments pass. SACK counts as far as it goes beyond the ACK. A super-frame is one long segment.

use caracal_wire::Tcp;
use caracal_wire::tcp::Flags;

use super::tcp::Way;

/// What is known of one direction's numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// One past the last byte that it has sent.
    end: u32,
    /// One past the last byte that it may send.
    most: u32,
    /// The largest window that it has offered, bytes.
    window: u32,
    /// By how many bits its windows are to be shifted; none has been offered: 0.
    scale: u8,
    /// Its SYN offered a scale: both must, for either to count.
    offers_scale: bool,
    /// Its SYN has been seen.
    has_begun: bool,
}

/// A connection's numbers; by [`Way`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    sides: [Side; 2],
}

const _: () = assert!(size_of::<Window>() == 32);

/// A segment, as windows see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    sequence: u32,
    acknowledgement: u32,
    /// One past its last byte; SYN and FIN are bytes.
    end: u32,
    window: u32,
    flags: Flags,
    scale: Option<u8>,
    /// One past the last byte that it says has come out of order.
    sack: Option<u32>,
}

/// The most that a scale can be (RFC 7323, 2.3).
const SCALE_MAX: u8 = 14;
/// How far an acknowledgement may lag behind, at least.
const ACK_WINDOW_MIN: u32 = 66_000;

/// The kinds of options that count here (RFC 9293, 3.1; RFC 7323; RFC 2018).
mod option {
    pub const END: u8 = 0;
    pub const NOTHING: u8 = 1;
    pub const WINDOW_SCALE: u8 = 3;
    pub const SACK: u8 = 5;
}

impl Segment {
    /// A segment of `l4_len` bytes, header included; they need not all be in `tcp`.
    #[must_use]
    pub fn read(tcp: &Tcp<&[u8]>, l4_len: usize) -> Segment {
        let flags = tcp.flags();
        let control = u32::from(flags.contains(Flags::SYN)) + u32::from(flags.contains(Flags::FIN));
        let data = l4_len.saturating_sub(tcp.header_len()) as u32;
        let mut segment = Segment {
            sequence: tcp.sequence(),
            acknowledgement: tcp.acknowledgement(),
            end: tcp.sequence().wrapping_add(data).wrapping_add(control),
            window: u32::from(tcp.window()),
            flags,
            scale: None,
            sack: None,
        };
        segment.read_options(tcp.options());
        segment
    }

    fn read_options(&mut self, mut options: &[u8]) {
        while let Some((kind, rest)) = options.split_first() {
            options = match *kind {
                option::END => return,
                option::NOTHING => rest,
                kind => {
                    let Some(length) = rest.first().map(|length| usize::from(*length)) else { return };
                    // Kind and length are part of it; one that says otherwise ends the reading.
                    let (Some(value), Some(next)) = (options.get(2..length), options.get(length..)) else {
                        return;
                    };
                    self.read_option(kind, value);
                    next
                }
            };
        }
    }

    fn read_option(&mut self, kind: u8, value: &[u8]) {
        match (kind, value) {
            (option::WINDOW_SCALE, [scale]) => self.scale = Some((*scale).min(SCALE_MAX)),
            (option::SACK, blocks) => {
                let (blocks, _) = blocks.as_chunks::<8>();
                let ends = blocks.iter().map(|[.., a, b, c, d]| u32::from_be_bytes([*a, *b, *c, *d]));
                self.sack = ends.reduce(|most, end| if is_before(most, end) { end } else { most });
            }
            _ => {}
        }
    }
}

/// Whether one sequence number comes before another (RFC 9293, 3.4: modulo 2³²).
fn is_before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

impl Window {
    /// Of a connection whose first segment this is.
    #[must_use]
    pub fn new(first: &Segment) -> Window {
        let mut window = Window::default();
        window.begin(Way::Original, first);
        window
    }

    fn begin(&mut self, way: Way, segment: &Segment) {
        if !segment.flags.contains(Flags::SYN) {
            return;
        }
        let other = self.sides[1 - way as usize];
        self.sides[way as usize] = Side {
            end: segment.end,
            most: if segment.flags.contains(Flags::ACK) { other.most } else { segment.end },
            window: segment.window.max(1),
            scale: segment.scale.unwrap_or(0),
            offers_scale: segment.scale.is_some(),
            has_begun: true,
        };
    }

    /// Whether a segment of the connection may pass; what it says is remembered then.
    pub fn admits(&mut self, way: Way, segment: &Segment) -> bool {
        let is_syn = segment.flags.contains(Flags::SYN);
        let [sender, receiver] = match way {
            Way::Original => self.sides,
            Way::Reply => [self.sides[1], self.sides[0]],
        };
        // The other side's SYN, or one sent again, perhaps with another number, before there is an answer.
        if is_syn && (!sender.has_begun || !receiver.has_begun) {
            self.begin(way, segment);
            let acknowledges = segment.flags.contains(Flags::ACK);
            if receiver.has_begun && acknowledges && segment.acknowledgement != receiver.end {
                // It answers another SYN than the one that went by: nothing is known.
                *self = Window::default();
                return true;
            }
            let [original, reply] = &mut self.sides;
            if original.has_begun && reply.has_begun {
                if !(original.offers_scale && reply.offers_scale) {
                    (original.scale, reply.scale) = (0, 0);
                }
                // A SYN's window is not scaled.
                original.most = original.end.wrapping_add(reply.window);
                reply.most = reply.end.wrapping_add(original.window);
            }
            return true;
        }
        if !sender.has_begun || !receiver.has_begun {
            return true;
        }
        let mut acknowledgement = segment.acknowledgement;
        let is_bare_reset = segment.flags.contains(Flags::RST) && acknowledgement == 0;
        if !segment.flags.contains(Flags::ACK) || is_bare_reset {
            acknowledgement = receiver.end;
        }
        let sack = match segment.sack {
            Some(sack) if is_before(acknowledgement, sack) => sack,
            _ => acknowledgement,
        };
        // RFC 5961, 5.2: an end takes what is as old as a window before what it waits for, itself within one.
        let lag = sender.window.saturating_mul(2).clamp(ACK_WINDOW_MIN, 1 << 31);
        let is_within = !is_before(sender.most, segment.sequence)
            && !is_before(segment.end, sender.end.wrapping_sub(receiver.window))
            && !is_before(receiver.end, sack)
            && !is_before(acknowledgement, receiver.end.wrapping_sub(lag));
        if !is_within {
            return false;
        }
        let scale = if is_syn { 0 } else { sender.scale };
        let window = segment.window << scale;
        let [sender, receiver] = match way {
            Way::Original => {
                let [original, reply] = &mut self.sides;
                [original, reply]
            }
            Way::Reply => {
                let [original, reply] = &mut self.sides;
                [reply, original]
            }
        };
        sender.window = sender.window.max(window.wrapping_add(sack.wrapping_sub(acknowledgement)));
        if is_before(sender.end, segment.end) {
            sender.end = segment.end;
        }
        // One byte more may be sent to a window that is closed, to see whether it still is (RFC 9293, 3.8.6.1).
        let most = acknowledgement.wrapping_add(window.max(1));
        if is_before(receiver.most, most) {
            receiver.most = most;
        }
        true
    }
}

#[cfg(test)]
mod tests;
