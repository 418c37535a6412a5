use super::*;
use crate::FramePool;
use proptest::prelude::*;

fn with_frame(test: impl FnOnce(&mut Frame)) {
    let mut pool = FramePool::heap(1);
    let mut frame = pool.take().unwrap();
    test(&mut frame);
    pool.put(frame);
}

#[test]
fn a_new_frame_is_empty_and_all_of_it_but_the_reserved_part_is_tailroom() {
    with_frame(|frame| {
        assert!(frame.is_empty());
        assert_eq!(
            (frame.headroom(), frame.tailroom(), frame.capacity()),
            (0, 2048 - RESERVED_HEADROOM, 2048)
        );
    });
}

#[test]
fn a_header_goes_in_front_without_moving_the_data() {
    with_frame(|frame| {
        frame.reset(100);
        frame.append(4).unwrap().copy_from_slice(b"data");
        let address = frame.data().as_ptr();
        frame.prepend(6).unwrap().copy_from_slice(b"header");
        assert_eq!(frame.data(), b"headerdata");
        frame.trim_front(6);
        assert_eq!((frame.data(), frame.data().as_ptr()), (&b"data"[..], address));
        assert_eq!(frame.headroom(), 100);
    });
}

#[test]
fn what_does_not_fit_changes_nothing() {
    with_frame(|frame| {
        frame.reset(10);
        frame.append(20).unwrap();
        assert!(frame.prepend(11).is_none() && frame.append(frame.tailroom() + 1).is_none());
        assert!(frame.prepend(usize::MAX).is_none() && frame.append(usize::MAX).is_none());
        assert_eq!((frame.headroom(), frame.len()), (10, 20));
        assert!(frame.prepend(10).is_some() && frame.append(frame.tailroom()).is_some());
        assert_eq!(frame.len(), 2048 - RESERVED_HEADROOM);
    });
}

#[test]
fn metadata_are_written_right_before_the_data() {
    with_frame(|frame| {
        frame.reset(24);
        frame.append(2).unwrap().copy_from_slice(b"ab");
        frame.write_metadata([7; RESERVED_HEADROOM]);
        assert_eq!(frame.data(), b"ab");
        frame.prepend(24).unwrap();
        assert_eq!(frame.data(), [&[7; 24][..], b"ab"].concat());
    });
}

#[test]
#[cfg(debug_assertions)]
fn dropping_a_frame_is_found_out() {
    let mut pool = FramePool::heap(2);
    let frame = pool.take().unwrap();
    let before = lost_frames();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(frame))).is_err());
    assert!(lost_frames() > before);
}

#[derive(Clone, Debug)]
enum Step {
    Prepend(usize),
    Append(usize),
    TrimFront(usize),
    Truncate(usize),
    Reset(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..300_usize).prop_map(Step::Prepend),
        (0..900_usize).prop_map(Step::Append),
        (0..300_usize).prop_map(Step::TrimFront),
        (0..2500_usize).prop_map(Step::Truncate),
        (0..2500_usize).prop_map(Step::Reset),
    ]
}

proptest! {
    /// Against a model that is obviously right: a deque with its headroom.
    #[test]
    fn any_walk_agrees_with_a_deque(steps in prop::collection::vec(step(), 1..40)) {
        let mut pool = FramePool::heap(1);
        let mut frame = pool.take().unwrap();
        let mut model = std::collections::VecDeque::new();
        let mut headroom = 0;
        for (number, step) in steps.into_iter().enumerate() {
            let fill = number as u8;
            match step {
                Step::Prepend(n) => {
                    let grown = frame.prepend(n).map(|bytes| bytes.fill(fill)).is_some();
                    prop_assert_eq!(grown, n <= headroom);
                    if grown {
                        headroom -= n;
                        (0..n).for_each(|_| model.push_front(fill));
                    }
                }
                Step::Append(n) => {
                    let room = 2048 - RESERVED_HEADROOM - headroom - model.len();
                    let grown = frame.append(n).map(|bytes| bytes.fill(fill)).is_some();
                    prop_assert_eq!(grown, n <= room);
                    if grown {
                        model.extend(std::iter::repeat_n(fill, n));
                    }
                }
                Step::TrimFront(n) => {
                    frame.trim_front(n);
                    let n = n.min(model.len());
                    model.drain(..n);
                    headroom += n;
                }
                Step::Truncate(n) => {
                    frame.truncate(n);
                    model.truncate(n);
                }
                Step::Reset(n) => {
                    frame.reset(n);
                    model.clear();
                    headroom = n.min(2048 - RESERVED_HEADROOM);
                }
            }
            let same = frame.data().iter().eq(model.iter());
            prop_assert!(same);
            prop_assert_eq!(frame.headroom(), headroom);
            prop_assert_eq!(frame.tailroom(), 2048 - RESERVED_HEADROOM - headroom - model.len());
        }
        pool.put(frame);
    }
}
