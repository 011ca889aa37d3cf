//! The engine against models of it: a queue against a `VecDeque`, the heap against the messages that are kept, and
//! what is kept against what the region says it holds.

mod primitives;
#[path = "../support/mod.rs"]
mod support;

use std::collections::VecDeque;

use std::time::Duration;

use multigil::control::AnyQueue;
use multigil::error::{GetError, PutError, TooManyDone};
use multigil::event::{Parker, Patience};
use multigil::layout::{ObjectKind, PeerId};
use multigil::object::{Handle, Message, Region};
use multigil::queue::{LARGE_BYTES, Queue};
use proptest::collection::vec;
use proptest::prelude::*;

use support::{limit, payload};

fn region() -> (Region, PeerId) {
    let region = Region::new().unwrap();
    let me = region.register().unwrap();
    (region, me)
}

/// Nothing is taken any more: no block, no object.
#[track_caller]
fn assert_empty(region: &Region) {
    let statistics = region.statistics();
    assert_eq!((statistics.memory.blocks, statistics.memory.in_use), (0, 0));
    assert_eq!((statistics.count(ObjectKind::Queue), statistics.count(ObjectKind::Lock)), (0, 0));
}

fn try_put(queue: &Handle<'_, Queue>, bytes: &[u8]) -> Result<(), PutError> {
    let (region, me) = (queue.region(), queue.owner());
    let mut message = Message::new(region, me);
    message.set_bytes(1, bytes).unwrap();
    queue.put(&mut message, region, me, None)
}

fn bytes(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = vec![0; message.length()];
    message.read(0, &mut bytes);
    bytes
}

/// Makes `ask` give a message of any size: it is called again for one that the message was not prepared for.
fn ask(
    queue: &Handle<'_, Queue>,
    mut ask: impl FnMut(&mut Message<'_>) -> Result<(), GetError>,
) -> Result<Vec<u8>, GetError> {
    let mut message = Message::new(queue.region(), queue.owner());
    let mut result = ask(&mut message);
    if let Err(GetError::Large(bytes)) = result {
        assert!(bytes > LARGE_BYTES);
        message.prepare(bytes);
        result = ask(&mut message);
    }
    result.map(|()| bytes(&message))
}

fn try_get(queue: &Handle<'_, Queue>) -> Result<Vec<u8>, GetError> {
    ask(queue, |message| queue.get(message, queue.region(), queue.owner(), None))
}

fn try_peek(queue: &Handle<'_, Queue>) -> Result<Vec<u8>, GetError> {
    ask(queue, |message| queue.peek(message, queue.region(), queue.owner(), None))
}

/// Puts messages of these bytes in one call; how many were put, and why no more.
fn try_put_many(queue: &Handle<'_, Queue>, all: &[Vec<u8>]) -> (usize, Result<(), PutError>) {
    let (region, me) = (queue.region(), queue.owner());
    let message = |bytes: &Vec<u8>| {
        let mut message = Message::new(region, me);
        message.set_bytes(1, bytes).unwrap();
        message
    };
    let mut messages: Vec<_> = all.iter().map(message).collect();
    let mut put = 0;
    let result = queue.put_many(&mut messages, &mut put, region, me, None);
    (put, result)
}

/// Gets up to so many messages, of which producers are told once.
fn try_get_many(queue: &Handle<'_, Queue>, count: usize) -> Vec<Result<Vec<u8>, GetError>> {
    let mut batch = queue.batch(queue.region(), queue.owner());
    (0..count).map(|_| ask(queue, |message| batch.get(message, None))).collect()
}

/// Sizes around every border: of a word, of a slot, of a block, of a large message.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![
        8 => prop::sample::select(vec![0, 1, 7, 8, 9, 111, 112, 113, 128, 129, 192, 193, 4096]),
        2 => 0..10_000_usize,
        2 => prop::sample::select(vec![48 << 10, 64 << 10, (64 << 10) + 1]),
        1 => prop::sample::select(vec![1 << 20, (1 << 20) + 1]),
    ]
}

// ---------------------------------------------------------------------------------------------- a queue

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    PutMany(usize),
    Get,
    GetMany(usize),
    Peek,
    Clear,
    Done,
    SetMaxsize(i64),
    ShutDown { immediate: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        30 => size().prop_map(Step::Put),
        6 => (0..200_usize).prop_map(Step::PutMany),
        30 => Just(Step::Get),
        6 => (0..300_usize).prop_map(Step::GetMany),
        10 => Just(Step::Peek),
        2 => Just(Step::Clear),
        20 => Just(Step::Done),
        4 => (-1..40_i64).prop_map(Step::SetMaxsize),
        1 => any::<bool>().prop_map(|immediate| Step::ShutDown { immediate }),
    ]
}

/// What a queue should be.
#[derive(Default)]
struct Model {
    messages: VecDeque<Vec<u8>>,
    maxsize: i64,
    unfinished: usize,
    shut_down: bool,
    immediate: bool,
}

impl Model {
    fn is_full(&self) -> bool {
        self.maxsize > 0 && self.messages.len() >= self.maxsize as usize
    }

    fn put(&mut self, bytes: Vec<u8>) -> Result<(), PutError> {
        if self.shut_down {
            return Err(PutError::ShutDown);
        }
        if self.is_full() {
            return Err(PutError::Full);
        }
        self.messages.push_back(bytes);
        self.unfinished += 1;
        Ok(())
    }

    fn get(&mut self) -> Result<Vec<u8>, GetError> {
        if self.immediate {
            return Err(GetError::ShutDown);
        }
        self.messages.pop_front().ok_or(if self.shut_down { GetError::ShutDown } else { GetError::Empty })
    }

    fn peek(&self) -> Result<Vec<u8>, GetError> {
        self.messages.front().cloned().ok_or(if self.shut_down { GetError::ShutDown } else { GetError::Empty })
    }

    /// Each message counts as done, as far as anything is still to be done.
    fn clear(&mut self) {
        self.unfinished -= self.messages.len().min(self.unfinished);
        self.messages.clear();
    }

    fn done(&mut self) -> Result<(), TooManyDone> {
        self.unfinished = self.unfinished.checked_sub(1).ok_or(TooManyDone)?;
        Ok(())
    }

    fn shut_down(&mut self, immediate: bool) {
        self.shut_down = true;
        self.immediate |= immediate;
        if immediate {
            self.clear();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// A queue does what a `VecDeque` does; when it is gone, so is everything in it.
    #[test]
    fn queue(maxsize in -1..40_i64, steps in vec(step(), 0..120)) {
        let _limit = limit(120);
        let (region, me) = region();
        let queue = region.create_queue(me, maxsize).unwrap();
        let mut model = Model { maxsize, ..Model::default() };
        let mut seed = 0;
        for step in steps {
            match step {
                Step::Put(size) => {
                    seed += 1;
                    let bytes = payload(seed, size);
                    prop_assert_eq!(try_put(&queue, &bytes), model.put(bytes));
                }
                Step::PutMany(count) => {
                    let all: Vec<_> = (0..count as u64).map(|place| payload(seed + place, 8)).collect();
                    seed += count as u64;
                    let (put, result) = try_put_many(&queue, &all);
                    for bytes in &all[..put] {
                        prop_assert_eq!(model.put(bytes.clone()), Ok(()));
                    }
                    prop_assert_eq!(result, all.get(put).map_or(Ok(()), |bytes| model.put(bytes.clone())));
                }
                Step::Get => prop_assert_eq!(try_get(&queue), model.get()),
                Step::GetMany(count) => {
                    for result in try_get_many(&queue, count) {
                        prop_assert_eq!(result, model.get());
                    }
                }
                Step::Peek => prop_assert_eq!(try_peek(&queue), model.peek()),
                Step::Clear => {
                    let parker = Parker::default();
                    queue.clear(&region, me, &Patience::new(None, Duration::ZERO, &parker)).unwrap();
                    model.clear();
                }
                Step::Done => prop_assert_eq!(queue.task_done(&region), model.done()),
                Step::SetMaxsize(maxsize) => {
                    queue.set_maxsize(maxsize, &region);
                    model.maxsize = maxsize;
                }
                Step::ShutDown { immediate } => {
                    queue.shut_down(immediate, &region, me);
                    model.shut_down(immediate);
                }
            }
            prop_assert_eq!(queue.len(), model.messages.len() as u64);
            prop_assert_eq!(queue.is_empty(), model.messages.is_empty());
            prop_assert_eq!(queue.is_full(), model.is_full());
            prop_assert_eq!(queue.maxsize(), model.maxsize);
            prop_assert_eq!(queue.unfinished(), model.unfinished as u64);
            prop_assert_eq!(queue.is_shut_down(), model.shut_down);
        }
        drop(queue);
        assert_empty(&region);
    }

    /// Messages of all sizes, taken and given back in any order, keep their bytes to themselves.
    #[test]
    fn heap(steps in vec((any::<bool>(), any::<prop::sample::Index>(), size()), 0..200)) {
        let _limit = limit(120);
        let (region, me) = region();
        let mut kept: Vec<(Vec<u8>, Message<'_>)> = Vec::new();
        for (seed, (take, which, size)) in steps.into_iter().enumerate() {
            if take || kept.is_empty() {
                let bytes = payload(seed as u64, size);
                let mut message = Message::new(&region, me);
                message.set_bytes(1, &bytes).unwrap();
                kept.push((bytes, message));
            } else {
                let (bytes, message) = kept.swap_remove(which.index(kept.len()));
                prop_assert_eq!(self::bytes(&message), bytes);
            }
            let blocks = kept.iter().filter(|(bytes, _)| bytes.len() > 112).count() as u64;
            prop_assert_eq!(region.statistics().memory.blocks, blocks);
        }
        drop(kept);
        assert_empty(&region);
    }
}

// ---------------------------------------------------------------------------------------------- objects in messages

/// Puts `inner` into `outer`, in a message of `length` other bytes.
fn put_inside(outer: &Handle<'_, Queue>, inner: &Handle<'_, Queue>, length: usize) {
    let (region, me) = (outer.region(), outer.owner());
    let mut message = Message::new(region, me);
    message.allocate(1, length, &[(inner.id(), ObjectKind::Queue)]).unwrap();
    message.write(0, &payload(1, length));
    outer.put(&mut message, region, me, None).unwrap();
}

#[test]
fn queue_in_message_lives_on() {
    let _limit = limit(60);
    let (region, me) = region();
    for length in [0, 100, 104, 105, 4096] {
        let outer = region.create_queue(me, 0).unwrap();
        let inner = region.create_queue(me, 0).unwrap();
        let id = inner.id();
        try_put(&inner, b"inside").unwrap();
        put_inside(&outer, &inner, length);
        drop(inner);
        assert_eq!(region.statistics().count(ObjectKind::Queue), 2, "the message keeps it alive");

        let mut message = Message::new(&region, me);
        outer.get(&mut message, &region, me, None).unwrap();
        assert_eq!(bytes(&message), payload(1, length));
        let inner = region.attach::<Queue>(id, me).unwrap();
        drop(message);
        assert_eq!(try_get(&inner).unwrap(), b"inside");
        drop(inner);
        assert!(region.attach::<Queue>(id, me).is_err(), "the id leads to nothing any more");
        drop(outer);
        assert_empty(&region);
    }
}

/// Who has looked at a message holds what is in it, whatever becomes of the message.
#[test]
fn peeked_message_is_a_copy() {
    let _limit = limit(60);
    let (region, me) = region();
    for length in [0, 100, 104, 105, 4096, LARGE_BYTES as usize] {
        let outer = region.create_queue(me, 0).unwrap();
        let inner = region.create_queue(me, 0).unwrap();
        let id = inner.id();
        put_inside(&outer, &inner, length);
        drop(inner);

        let mut copies: Vec<_> = (0..3).map(|_| Message::new(&region, me)).collect();
        for copy in &mut copies {
            copy.prepare(u64::MAX);
            outer.peek(copy, &region, me, None).unwrap();
        }
        assert_eq!((outer.len(), outer.unfinished()), (1, 1));
        drop(outer);
        assert_eq!(region.statistics().count(ObjectKind::Queue), 1, "the copies keep it alive");
        while let Some(copy) = copies.pop() {
            assert_eq!((copy.kind(), bytes(&copy)), (1, payload(1, length)));
            assert!(region.attach::<Queue>(id, me).is_ok());
        }
        assert!(region.attach::<Queue>(id, me).is_err());
        assert_empty(&region);
    }
}

/// A queue in a queue in a queue, 10,000 deep: the last handle's end is the end of all of them, without recursion.
#[test]
fn nested_queues_end_without_recursion() {
    let _limit = limit(60);
    let (region, me) = region();
    let mut outermost = region.create_queue(me, 0).unwrap();
    for depth in 0..10_000 {
        let outer = region.create_queue(me, 0).unwrap();
        put_inside(&outer, &outermost, depth % 3 * 100);
        outermost = outer;
    }
    assert_eq!(region.statistics().count(ObjectKind::Queue), 10_001);
    let region = &region;
    std::thread::scope(|scope| {
        // A stack that even one frame per queue would overflow.
        std::thread::Builder::new().stack_size(128 << 10).spawn_scoped(scope, move || drop(outermost)).unwrap();
    });
    assert_empty(region);
}

/// A message that was never put gives back what it holds.
#[test]
fn unsent_message_holds_nothing() {
    let _limit = limit(60);
    let (region, me) = region();
    let queue = region.create_queue(me, 1).unwrap();
    let inner = region.create_queue(me, 0).unwrap();
    try_put(&queue, b"full").unwrap();
    let mut message = Message::new(&region, me);
    message.allocate(1, 1000, &[(inner.id(), ObjectKind::Queue)]).unwrap();
    drop(inner);
    assert_eq!(queue.put(&mut message, &region, me, None), Err(PutError::Full));
    assert_eq!(region.statistics().count(ObjectKind::Queue), 2, "a refused message is still the caller's");
    drop(message);
    assert_eq!(region.statistics().count(ObjectKind::Queue), 1);
    drop(queue);
    assert_empty(&region);
}

// ---------------------------------------------------------------------------------------------- too much

/// A request that no machine can grant says both numbers and leaves everything as it was.
#[test]
fn too_large_takes_nothing() {
    let _limit = limit(60);
    let (region, me) = region();
    let inner = region.create_queue(me, 0).unwrap();
    let before = region.statistics().memory;
    for length in [1 << 39, (1 << 40) - 1, 1 << 40, usize::MAX] {
        let mut message = Message::new(&region, me);
        message.set_word(1, 7);
        let error = message.allocate(1, length, &[(inner.id(), ObjectKind::Queue)]).unwrap_err();
        assert!(error.requested >= length as u64 && error.available < error.requested, "{error}");
        assert_eq!(message.length(), 0);
        assert_eq!(region.statistics().memory, before);
    }
    drop(inner);
    assert_empty(&region);
}
