//! (tap)
