//! The bytes are where `src/layout.rs` says they are: whoever changes that, changes what other processes read.

use multigil::layout::{INLINE_BYTES, Meta, ObjectId, PeerId, RingHeader, Slot};
use multigil::lock::Lock;
use multigil::object::{SharedLock, SharedMemory};
use multigil::ordered::PriorityQueue;
use multigil::queue::Queue;
use multigil::ring::{Chain, RingRef};

#[test]
fn sizes() {
    assert_eq!((size_of::<Slot>(), align_of::<Slot>()), (128, 128));
    assert_eq!((size_of::<RingHeader>(), align_of::<RingHeader>()), (64, 64));
    assert_eq!((size_of::<ObjectId>(), align_of::<ObjectId>()), (8, 4));
    assert_eq!((size_of::<Lock>(), size_of::<SharedLock>(), size_of::<Queue>()), (12, 128, 512));
    assert_eq!((size_of::<SharedMemory>(), align_of::<SharedMemory>()), (128, 128), "the bytes come right behind");
    assert_eq!(size_of::<PriorityQueue>(), 512, "control, tasks, lock and table have a line each");
    assert_eq!(size_of::<Chain>(), 256, "producers and consumers have a line each");
    assert_eq!(INLINE_BYTES, 128 - 16);
}

#[test]
fn meta() {
    let meta = Meta { kind: 0xAB, pins: 0xCDEF, length: 0x12_3456_789A };
    assert_eq!(meta.pack(), 0xAB << 53 | 0xCDEF << 37 | 0x12_3456_789A);
    let flags = [Meta::COMPLETE, Meta::REDELIVERED, Meta::ENVELOPED];
    assert_eq!(flags, [1 << 63, 1 << 62, 1 << 61]);
    for flags in [0, Meta::COMPLETE, Meta::COMPLETE | Meta::REDELIVERED, Meta::COMPLETE | Meta::ENVELOPED] {
        assert_eq!(Meta::unpack(meta.pack() | flags), meta);
    }
    assert_eq!(Meta::unpack(0), Meta { kind: 0, pins: 0, length: 0 });
    assert_eq!(Meta::MAX_LENGTH, 0x1F_FFFF_FFFF);
    let meta = Meta { pins: 0, ..meta };
    assert!(Meta { length: 112, ..meta }.is_inline() && !Meta { length: 113, ..meta }.is_inline());
}

#[test]
fn peers() {
    assert_eq!(PeerId::new(0), None);
    assert_eq!(PeerId::new(1).map(PeerId::get), Some(1));
    assert_eq!(PeerId::new(4095).map(PeerId::get), Some(4095));
    assert_eq!(PeerId::new(4096), None);
}

/// A ring's turns are new in each life of its memory, and leave room for all turns of a life.
#[test]
fn turns() {
    let first = |generation| RingRef::new(7, generation).first_turn();
    assert_eq!((RingRef::new(7, 9).index(), RingRef::new(7, 9).generation()), (7, 9));
    assert!(first(1) > 0);
    for generation in [1, 2, 1000, (1 << 20) - 3] {
        assert_eq!(first(generation + 1) - first(generation), 1 << 28);
    }
    let last = (1..1 << 20).map(first).max().unwrap();
    assert!(last + (1 << 28) <= 1 << 48);
    assert!((0..=u32::MAX).step_by(65_521).all(|generation| first(generation) > 0));
}
