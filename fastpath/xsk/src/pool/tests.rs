use super::*;

#[test]
fn every_chunk_is_taken_once_and_then_there_is_none() {
    let mut pool = FramePool::heap(8);
    let frames: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    let mut indices: Vec<_> = frames.iter().map(Frame::index).collect();
    indices.sort_unstable();
    assert_eq!(indices, (0..8).collect::<Vec<_>>());
    assert_eq!((pool.free(), pool.total()), (0, 8));
    frames.into_iter().for_each(|frame| pool.put(frame));
    assert_eq!(pool.free(), 8);
}

#[test]
fn chunks_do_not_overlap() {
    let mut pool = FramePool::heap(4);
    let mut frames: Vec<_> = std::iter::from_fn(|| pool.take()).collect();
    for (number, frame) in frames.iter_mut().enumerate() {
        frame.append(frame.tailroom()).unwrap().fill(number as u8);
    }
    for (number, frame) in frames.iter().enumerate() {
        assert!(frame.data().iter().all(|byte| *byte == number as u8));
    }
    frames.into_iter().for_each(|frame| pool.put(frame));
}

#[test]
fn a_frame_of_another_domain_is_given_back() {
    let (mut ours, mut theirs) = (FramePool::heap(1), FramePool::heap(1));
    let frame = theirs.take().unwrap();
    let frame = ours.try_put(frame).unwrap_err();
    assert_eq!(ours.free(), 1);
    theirs.put(frame);
}

#[test]
#[cfg(debug_assertions)]
fn putting_a_frame_of_another_domain_is_found_out() {
    let (mut ours, mut theirs) = (FramePool::heap(1), FramePool::heap(1));
    let frame = theirs.take().unwrap();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ours.put(frame))).is_err());
    assert_eq!(ours.free(), 1, "and changes nothing");
}

#[test]
fn frames_that_are_out_when_their_pool_goes_stay_valid() {
    let mut pool = FramePool::heap(2);
    let mut frame = pool.take().unwrap();
    frame.append(4).unwrap().copy_from_slice(b"here");
    drop(pool);
    let data = std::thread::spawn(move || {
        let data = frame.data().to_vec();
        std::mem::forget(frame);
        data
    });
    assert_eq!(data.join().unwrap(), b"here");
}

#[test]
fn a_warm_frame_is_used_again_first() {
    let mut pool = FramePool::heap(4);
    let frame = pool.take().unwrap();
    let index = frame.index();
    pool.put(frame);
    let frame = pool.take().unwrap();
    assert_eq!(frame.index(), index);
    pool.put(frame);
}
