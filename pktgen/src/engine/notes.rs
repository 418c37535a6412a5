//! The sink in the kernel: an XDP program on the sink's interface takes the run's packets off the way and notes when each came
//! ([`caracal_xsk::live_frames`]); a thread reads the notes. It costs less than any socket, so it is the default wherever it can be. All else that
//! comes by the interface goes on to the kernel. In generic mode each CPU notes what it sees: a flow that moves between CPUs may seem out of order.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caracal_xsk::live_frames::{Recorder, Taken};
use caracal_xsk::xdp::{AttachMode, Preference};

use super::{Progress, Receive};
use crate::account::{Account, Came};
use crate::files;
use crate::payload::Mark;
use crate::place::Place;
use crate::reach::Interface;

/// Notes that there is room for in a ring: a tenth of a second of the fastest.
const NOTES: u32 = 1 << 18;
/// Notes taken from a ring at once.
const BATCH: usize = 4096;
/// How long to let notes gather.
const NAP: Duration = Duration::from_micros(500);

/// Reads the notes of one interface.
pub struct Notes {
    recorder: Recorder,
}

impl Notes {
    /// Attaches the program.
    ///
    /// # Errors
    /// Not root, or another program is there.
    pub fn open(place: &Place, interface: &Interface) -> anyhow::Result<Self> {
        let rings = interface.queues.max(std::thread::available_parallelism().map_or(1, |n| n.get() as u32));
        let recorder = place.within(|| {
            Ok(Recorder::attach(interface.index, Preference::NativeFirst, Taken::Noted, rings, NOTES)?)
        })?;
        if let AttachMode::Generic(reason) = recorder.mode() {
            files::say(format_args!(
                "the sink on {} works in generic mode ({reason}), which is slower",
                interface.name
            ));
        }
        Ok(Notes { recorder })
    }
}

impl Receive for Notes {
    fn receive(
        &mut self,
        run: u32,
        account: &mut Account,
        progress: &Progress,
        close: &AtomicBool,
    ) -> anyhow::Result<()> {
        self.recorder.set_run(run);
        loop {
            let closing = close.load(Ordering::Relaxed);
            let mut received = 0;
            let count = self.recorder.drain(BATCH, |note| {
                let mark = Mark { run, flow: note.flow, sequence: note.sequence, sent_ns: note.sent_ns };
                match account.count(mark, note.now_ns, note.length as usize) {
                    Came::Counted => received += 1,
                    Came::Scout => progress.scouted.store(true, Ordering::Relaxed),
                    Came::Uncounted => {}
                }
            });
            progress.received.fetch_add(received, Ordering::Relaxed);
            if count > 0 {
                continue;
            }
            if closing {
                self.recorder.set_run(0);
                return Ok(());
            }
            std::thread::sleep(NAP);
        }
    }

    fn overflowed(&self) -> Option<u64> {
        Some(self.recorder.lost())
    }
}
