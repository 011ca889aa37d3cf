//! Memory that everybody sees: zero at first, elements that no two threads tear apart, waits that end when they should,
//! names that keep it alive.
#![expect(unsafe_code, reason = "bytes are read and written where they lie")]

mod support;

use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use multigil::error::{NameError, WaitError};
use multigil::event::{Parker, Patience};
use multigil::layout::{ObjectKind, PeerId};
use multigil::memory::Format;
use multigil::object::{Handle, Region, SharedMemory};
use proptest::prelude::*;

use support::{limit, payload};

const BYTES: Format = Format { meaning: 0, width: 0 };
/// Waiting without spinning: every wait is a sleep, and every wake matters.
const NO_SPIN: Duration = Duration::ZERO;

fn region() -> (Region, PeerId) {
    let region = Region::new().unwrap();
    let me = region.register().unwrap();
    (region, me)
}

fn of_width(width: u32) -> Format {
    Format { meaning: 7, width }
}

#[track_caller]
fn assert_empty(region: &Region) {
    let statistics = region.statistics();
    assert_eq!((statistics.memory.blocks, statistics.count(ObjectKind::Memory)), (0, 0));
}

fn fill(memory: &Handle<'_, SharedMemory>, byte: u8) {
    let (start, length) = memory.bytes();
    // SAFETY: the bytes are there as long as the handle is, and nobody else has one.
    unsafe { start.write_bytes(byte, length) };
}

/// A copy of all its bytes.
fn content(memory: &Handle<'_, SharedMemory>) -> Vec<u8> {
    let (start, length) = memory.bytes();
    // SAFETY: as above.
    unsafe { std::slice::from_raw_parts(start.as_ptr(), length) }.to_vec()
}

// ---------------------------------------------------------------------------------------------- bytes

/// All bytes are zero, whatever the memory was before: a small block or a large one, warm or given back to the kernel.
#[test]
fn new_memory_is_zero() {
    let _limit = limit(120);
    let (region, me) = region();
    let lengths = [0, 1, 127, 128, 129, 1000, 65_408, 65_536, 90_000, 1 << 20, 3 << 20, 40 << 20, 100 << 20];
    for _ in 0..2 {
        for length in lengths {
            let memory = region.create_memory(me, BYTES, length).unwrap();
            let (start, bytes) = memory.bytes();
            assert_eq!((bytes, start.as_ptr() as usize % 128), (length, 0));
            assert!(content(&memory) == vec![0; length], "of {length} bytes");
            fill(&memory, 0xFF);
            assert!(content(&memory) == vec![0xFF; length], "of {length} bytes");
        }
    }
    assert_empty(&region);
}

/// Two at a time do not overlap.
#[test]
fn memories_lie_apart() {
    let _limit = limit(60);
    let (region, me) = region();
    let lengths = [1, 100, 128, 129, 5000, 70_000, 1 << 20];
    let memories: Vec<_> = lengths.iter().map(|length| region.create_memory(me, BYTES, *length).unwrap()).collect();
    for (number, memory) in memories.iter().enumerate() {
        let bytes = payload(number as u64, lengths[number]);
        // SAFETY: the bytes are there as long as the handle is, and nobody else has one.
        unsafe { memory.bytes().0.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
    }
    for (number, memory) in memories.iter().enumerate() {
        assert!(content(memory) == payload(number as u64, lengths[number]));
    }
}

/// More than there can be is an error that says both numbers, and takes nothing, no name either.
#[test]
fn too_large_takes_nothing() {
    let _limit = limit(60);
    let (region, me) = region();
    let before = region.statistics().memory;
    for length in [1 << 45, 1 << 62, usize::MAX - 128, usize::MAX] {
        let error = region.create_memory(me, BYTES, length).unwrap_err();
        assert!(error.requested >= length as u64 && error.available < error.requested, "{error}");
        assert!(matches!(
            region.create_named_memory(me, "huge", BYTES, length).unwrap_err(),
            NameError::OutOfMemory(again) if again.requested == error.requested
        ));
        assert!(region.open_memory(me, "huge").is_none());
        assert_eq!(region.statistics().memory, before);
    }
}

// ---------------------------------------------------------------------------------------------- elements

#[derive(Clone, Debug)]
enum Step {
    Store(usize, u64),
    Swap(usize, u64),
    Exchange(usize, u64, u64),
    Add(usize, u64),
    Refuse(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let place = 0..5_usize;
    // Often a number that may be there already.
    let bits = || prop_oneof![0..4_u64, any::<u64>()];
    prop_oneof![
        (place.clone(), bits()).prop_map(|(place, bits)| Step::Store(place, bits)),
        (place.clone(), bits()).prop_map(|(place, bits)| Step::Swap(place, bits)),
        (place.clone(), bits(), bits()).prop_map(|(place, expected, bits)| Step::Exchange(place, expected, bits)),
        (place.clone(), bits()).prop_map(|(place, bits)| Step::Add(place, bits)),
        place.prop_map(Step::Refuse),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Elements are those of a vector of numbers of their width; what is too wide for one is cut off.
    #[test]
    fn elements_are_a_vector(
        width in prop::sample::select(vec![1_u32, 2, 4, 8]),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let _limit = limit(60);
        let (region, me) = region();
        let memory = region.create_memory(me, of_width(width), 6 * width as usize - 1).unwrap();
        prop_assert_eq!(memory.elements(), 5);
        prop_assert!(memory.element(5).is_none() && memory.element(usize::MAX).is_none());
        let mask = u64::MAX >> (64 - 8 * width);
        let mut model = [0_u64; 5];
        for step in steps {
            match step {
                Step::Store(place, bits) => {
                    memory.element(place).unwrap().store(bits);
                    model[place] = bits & mask;
                }
                Step::Swap(place, bits) => {
                    prop_assert_eq!(memory.element(place).unwrap().swap(bits), model[place]);
                    model[place] = bits & mask;
                }
                Step::Exchange(place, expected, bits) => {
                    let was = model[place] == expected & mask;
                    prop_assert_eq!(memory.element(place).unwrap().compare_exchange(expected, bits), was);
                    if was {
                        model[place] = bits & mask;
                    }
                }
                Step::Add(place, bits) => {
                    let add = |old: u64| Ok::<_, ()>(old.wrapping_add(bits));
                    prop_assert_eq!(memory.element(place).unwrap().update(add), Ok(model[place]));
                    model[place] = model[place].wrapping_add(bits) & mask;
                }
                Step::Refuse(place) => prop_assert_eq!(memory.element(place).unwrap().update(Err), Err(model[place])),
            }
            let now: Vec<_> = (0..5).map(|place| memory.element(place).unwrap().load()).collect();
            prop_assert_eq!(&now, &model);
        }
    }
}

/// Memory of bytes has no elements.
#[test]
fn bytes_are_no_elements() {
    let (region, me) = region();
    let memory = region.create_memory(me, BYTES, 100).unwrap();
    assert_eq!(memory.elements(), 0);
    assert!(memory.element(0).is_none());
}

/// Threads that add to one element lose nothing, of any width, next to others that do the same.
#[test]
fn additions_are_exact() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 50_000;
    let _limit = limit(120);
    let (region, me) = region();
    for width in [1, 2, 4, 8] {
        let memory = region.create_memory(me, of_width(width), 3 * width as usize).unwrap();
        let add = |old: u64| Ok::<_, ()>(old.wrapping_add(1));
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for round in 0..ROUNDS {
                        memory.element(round as usize % 2).unwrap().update(add).unwrap();
                    }
                });
            }
        });
        let mask = u64::MAX >> (64 - 8 * width);
        let each = (THREADS * ROUNDS / 2) & mask;
        let found = [0, 1, 2].map(|place| memory.element(place).unwrap().load());
        assert_eq!(found, [each, each, 0]);
    }
}

// ---------------------------------------------------------------------------------------------- waits

fn wait(
    memory: &Handle<'_, SharedMemory>,
    place: usize,
    expected: u64,
    patience: &Patience<'_>,
) -> Result<(), WaitError> {
    let element = memory.element(place).unwrap();
    memory.changes(place).wait_until(patience, || (element.load() != expected).then_some(()))
}

/// Threads hand a number round, each in a place of its own, all on the same word to sleep on: every wake arrives.
#[test]
fn turns_go_round() {
    const THREADS: usize = 4;
    const ROUNDS: u64 = 3_000;
    let _limit = limit(120);
    let (region, me) = region();
    // Places whose waiters are not apart.
    let place = |thread: usize| thread * 8;
    let memory = region.create_memory(me, of_width(8), 8 * 8 * THREADS).unwrap();
    assert!(std::ptr::eq(memory.changes(place(0)), memory.changes(place(1))));
    assert!(!std::ptr::eq(memory.changes(0), memory.changes(1)));
    let give = |thread: usize, round: u64| {
        memory.element(place(thread)).unwrap().store(round);
        memory.changes(place(thread)).notify(1);
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (memory, give) = (&memory, &give);
            scope.spawn(move || {
                let parker = Parker::default();
                for round in 1..=ROUNDS {
                    wait(memory, place(thread), round - 1, &Patience::new(None, NO_SPIN, &parker)).unwrap();
                    let next = (thread + 1) % THREADS;
                    give(next, if next == 0 { round + 1 } else { round });
                }
            });
        }
        give(0, 1);
    });
}

/// Waits until a thread that is on its way to sleep has fallen asleep.
fn until_asleep(thread: libc::pid_t) {
    let is_asleep = || {
        let status = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        status.rsplit(") ").next().unwrap().starts_with('S')
    };
    while !is_asleep() {
        thread::yield_now();
    }
}

/// Among those who wait for the same, a notification wakes as many as it says and nobody else.
#[test]
fn notifications_are_counted() {
    let _limit = limit(60);
    let (region, me) = region();
    let memory = region.create_memory(me, of_width(4), 4).unwrap();
    let (waits, waiting) = channel();
    thread::scope(|scope| {
        let waiters = [(); 3].map(|()| {
            let (memory, waits) = (&memory, waits.clone());
            scope.spawn(move || {
                // SAFETY: it has no preconditions.
                waits.send(unsafe { libc::gettid() }).unwrap();
                let parker = Parker::default();
                wait(memory, 0, 0, &Patience::new(None, NO_SPIN, &parker)).unwrap();
            })
        });
        waiting.iter().take(3).for_each(until_asleep);
        memory.element(0).unwrap().store(1);
        for left in (0..3).rev() {
            memory.changes(0).notify(1);
            let ended = || waiters.iter().filter(|waiter| waiter.is_finished()).count();
            while ended() < 3 - left {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(5)); // for one too many
            assert_eq!(ended(), 3 - left);
        }
    });
}

/// A wait ends at its time or at an interrupt, and not before.
#[test]
fn waits_end() {
    let _limit = limit(60);
    let (region, me) = region();
    let memory = region.create_memory(me, of_width(1), 1).unwrap();
    let parker = Parker::default();
    let started = Instant::now();
    let until = Some(started + Duration::from_millis(30));
    assert_eq!(wait(&memory, 0, 0, &Patience::new(until, NO_SPIN, &parker)), Err(WaitError::TimedOut));
    assert!(started.elapsed() >= Duration::from_millis(30));
    thread::scope(|scope| {
        let waiter = scope.spawn(|| wait(&memory, 0, 0, &Patience::new(None, NO_SPIN, &parker)));
        parker.interrupt();
        assert_eq!(waiter.join().unwrap(), Err(WaitError::Interrupted));
    });
    memory.element(0).unwrap().store(1);
    assert_eq!(wait(&memory, 0, 0, &Patience::new(None, NO_SPIN, &parker)), Ok(()));
}

// ---------------------------------------------------------------------------------------------- names

/// A name leads to the memory and keeps it alive until it is taken away; then the last handle does.
#[test]
fn names_keep_memory_alive() {
    let (region, me) = region();
    let first = region.create_named_memory(me, "a", BYTES, 1000).unwrap();
    let id = first.id();
    assert_eq!(region.create_named_memory(me, "a", BYTES, 10).unwrap_err(), NameError::Exists);
    fill(&first, 5);
    drop(first);
    assert_eq!(region.statistics().count(ObjectKind::Memory), 1);
    let again = region.open_memory(me, "a").unwrap();
    assert_eq!((again.id(), content(&again)), (id, vec![5; 1000]));
    assert!(region.open_memory(me, "b").is_none());

    assert!(region.unlink_memory(me, "a"));
    assert!(!region.unlink_memory(me, "a"));
    assert!(region.open_memory(me, "a").is_none());
    let other = region.create_named_memory(me, "a", BYTES, 1).unwrap();
    assert_ne!(other.id(), id);
    assert_eq!(content(&again), [5; 1000]);
    drop(again);
    assert_eq!(region.statistics().count(ObjectKind::Memory), 1);
    drop(other);
    assert!(region.unlink_memory(me, "a"));
    assert_empty(&region);
}
