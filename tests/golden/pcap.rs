//! Capture files in the classic format, little-endian, of Ethernet frames: what tcpdump and Wireshark read.
//!
//! ```text
//!   magic 4 │ version 2+2 │ zone 4 │ figures 4 │ snap length 4 │ link type 4 │ records: sec 4 │ µsec 4 │ kept 4 │ length 4 │ frame …
//! ```

use std::path::Path;

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
const HEADER_LEN: usize = 24;

/// The frames of a capture.
pub fn read(path: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let word = |at: usize| {
        let word = bytes.get(at..at + 4).unwrap_or_else(|| panic!("{}: cut off", path.display()));
        u32::from_le_bytes([word[0], word[1], word[2], word[3]])
    };
    assert_eq!((word(0), word(20)), (MAGIC, ETHERNET), "{}: not such a capture", path.display());
    let mut frames = Vec::new();
    let mut at = HEADER_LEN;
    while at < bytes.len() {
        let (kept, length) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(kept, length, "{}: a frame is cut off", path.display());
        let frame = bytes.get(at + 16..at + 16 + kept);
        frames.push(frame.unwrap_or_else(|| panic!("{}: cut off", path.display())).to_vec());
        at += 16 + kept;
    }
    frames
}

/// Writes frames, one a second from the epoch on.
pub fn write(path: &Path, frames: &[Vec<u8>]) {
    let mut bytes = Vec::new();
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    bytes.extend(words(&[MAGIC, 4 << 16 | 2, 0, 0, 65_535, ETHERNET]));
    for (second, frame) in frames.iter().enumerate() {
        let len = frame.len() as u32;
        bytes.extend(words(&[second as u32, 0, len, len]));
        bytes.extend(frame);
    }
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
