//! The question and answer of protocols that have no ports, and what raw sockets of IPv4 give with them.

/// What a probe of a protocol without ports asks; four bytes that identify it follow.
pub(crate) const QUESTION: &[u8] = b"caracal?";
const ANSWER: &[u8] = b"caracal!";

/// What the IPv4 datagram `bytes` carries: raw sockets of IPv4 give the header too, those of IPv6 do not.
pub(crate) fn payload(bytes: &[u8]) -> Option<&[u8]> {
    // A view of the slice would not outlive this function.
    let view = caracal_wire::Ipv4::new_checked(bytes).ok()?;
    let length = view.payload().len();
    let start = view.header_len();
    bytes.get(start..start + length)
}

/// What answers a question of ours.
pub(crate) fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let identity = question.strip_prefix(QUESTION)?;
    Some([ANSWER, identity].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_datagram_and_what_follows_its_end_are_no_payload() {
        let header = [0x45, 0, 0, 23, 0, 0, 0, 0, 64, 47, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        let bytes = [header.as_slice(), &[1, 2, 3, 0, 0]].concat();
        assert_eq!(payload(&bytes), Some([1, 2, 3].as_slice()));
        assert_eq!(payload(&bytes[..22]), None);
    }

    #[test]
    fn only_questions_are_answered() {
        assert_eq!(answer(b"caracal?1234").unwrap(), b"caracal!1234");
        assert_eq!(answer(b"caracal!1234"), None);
    }
}
