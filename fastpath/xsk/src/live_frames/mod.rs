//! A generator and a sink of packets inside the kernel, for `pktgen`.
//!
//! ```text
//!   Generator::run ── BPF_PROG_TEST_RUN, live frames ──► bpf/generate.c ── out of a device ═══► subject ═══► bpf/record.c ──┐
//!        │ deck, flows, templates, control: mapped memory ──┘                                                       notes  │
//!   Recorder::drain ◄──────────────────────────────────────── mapped memory ◄─────────────────────────────────────────────┘
//! ```
//!
//! With `BPF_F_TEST_XDP_LIVE_FRAMES` (Linux 5.18) the kernel runs an XDP program on frames that no device has received, and does with
//! each what the program says. So packets leave without a socket, a copy or a buffer of the stack's: on a veth nothing is faster.
//!
//! Both share memory with user space: arrays of BPF, mapped ([`shared`]).

mod generator;
mod recorder;
mod shared;

pub use generator::{
    Control, FLOWS_MAX, FRAME_MAX, Flow, Generator, Kind, Pick, Size, TEMPLATE_BYTES, Template,
};
pub use recorder::{Note, Recorder, Taken};
