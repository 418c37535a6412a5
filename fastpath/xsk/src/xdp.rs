//! (xdp)
