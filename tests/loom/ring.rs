//! Ring and chain.

use std::sync::{Arc, Mutex};

use loom::sync::atomic::Ordering;
use loom::thread;
use multigil::error::OutOfMemory;
use multigil::event::{Bell, Event, Patience};
use multigil::layout::{Meta, PeerId, RingHeader, Slot};
use multigil::model::{AtomicU64, Part, is_missing, without};
use multigil::ring::{Cell, Chain, PopError, PushError, Recovery, Ring, RingRef, Rings};

use crate::{check, check_deaths, die_at, me, twin};

const NO_LIMIT: u64 = u64::MAX;

/// Memory for a few rings: a heap in small.
struct Memory {
    blocks: Vec<Block>,
}

struct Block {
    /// How often the block was taken; from bit 1 on who owns it, 0 for a chain; in the lowest bit whether it is taken now.
    descriptor: AtomicU64,
    header: RingHeader,
    slots: Vec<Slot>,
}

const GENERATION: u64 = 1 << 16;

impl Memory {
    /// Rings of these many slots, handed out in this order.
    fn new(rings: &[usize]) -> Memory {
        let block = |slots: &usize| Block {
            descriptor: AtomicU64::default(),
            header: RingHeader::default(),
            slots: (0..*slots).map(|_| Slot::default()).collect(),
        };
        Memory { blocks: rings.iter().map(block).collect() }
    }

    /// The number of rings that are taken.
    fn taken(&self) -> usize {
        self.blocks.iter().filter(|block| block.descriptor.load(Ordering::Acquire) & 1 == 1).count()
    }

    /// Takes back what the dead owned.
    fn sweep(&self, dead: PeerId) {
        for block in &self.blocks {
            let seen = block.descriptor.load(Ordering::Acquire);
            if seen % GENERATION == u64::from(dead.get()) << 1 | 1 {
                block.descriptor.store(seen / GENERATION * GENERATION, Ordering::Release);
            }
        }
    }

    fn set_descriptor(&self, reference: RingRef, state: u64) {
        let descriptor = &self.blocks[reference.index() as usize].descriptor;
        descriptor.store((u64::from(reference.generation()) * GENERATION) | state, Ordering::Release);
    }
}

impl Rings for Memory {
    fn ring(&self, reference: RingRef) -> Option<Ring<'_>> {
        let block = self.blocks.get(reference.index() as usize)?;
        Some(Ring { header: &block.header, slots: &block.slots })
    }

    /// The first free ring, whatever its size: a chain does not mind.
    fn allocate(&self, me: PeerId, _slots: usize) -> Result<RingRef, OutOfMemory> {
        for (index, block) in self.blocks.iter().enumerate() {
            let seen = block.descriptor.load(Ordering::Relaxed);
            let generation = seen / GENERATION + 1;
            let taken = (generation * GENERATION) | u64::from(me.get()) << 1 | 1;
            if seen & 1 == 0
                && block.descriptor.compare_exchange(seen, taken, Ordering::Acquire, Ordering::Relaxed).is_ok()
            {
                return Ok(RingRef::new(index as u32, generation as u32));
            }
        }
        Err(OutOfMemory { requested: 1, available: 0 })
    }

    fn link(&self, _me: PeerId, word: &AtomicU64, expected: u64, new: u64, fresh: Option<RingRef>) -> Result<(), u64> {
        // SYNC POINT: Release publishes the initialized ring.
        let ordering = if is_missing(Part::Link) { Ordering::Relaxed } else { Ordering::Release };
        word.compare_exchange(expected, new, ordering, Ordering::Acquire)?;
        if let Some(fresh) = fresh {
            self.set_descriptor(fresh, 1);
        }
        Ok(())
    }

    fn unlink(&self, me: PeerId, first: &AtomicU64, ring: RingRef, following: u64) -> bool {
        let name = u64::from(ring.generation()) << 32 | u64::from(ring.index());
        // AcqRel: the winner alone frees it.
        let is_first = first.compare_exchange(name, following, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if is_first {
            self.free(me, ring);
        }
        is_first
    }

    fn free(&self, _me: PeerId, reference: RingRef) {
        self.set_descriptor(reference, 0);
    }
}

/// A chain in a memory of its own. A message is a number.
struct Line {
    memory: Memory,
    chain: Chain,
    /// What recovery counted and gave back.
    recovered: Mutex<Recovered>,
}

#[derive(Default)]
struct Recovered {
    skipped: u64,
    /// Positions and messages.
    returned: Vec<(u64, u64)>,
}

impl Line {
    /// A chain that starts in the first of these rings.
    fn new(rings: &[usize]) -> Line {
        let line = Line { memory: Memory::new(rings), chain: Chain::default(), recovered: Mutex::default() };
        line.chain.initialize(&line.memory, me(), rings[0]).unwrap();
        line
    }

    /// The same with messages in it.
    fn with(rings: &[usize], messages: &[u64]) -> Line {
        let line = Line::new(rings);
        messages.iter().for_each(|message| line.put(*message));
        line
    }

    /// An empty chain whose first ring is closed, and nothing follows it yet: there was no memory for another one.
    fn closed(rings: &[usize]) -> Line {
        let line = Line::with(rings, &[0]);
        let others: Vec<_> = std::iter::from_fn(|| line.memory.allocate(me(), 1).ok()).collect();
        assert!(matches!(line.try_put(0, NO_LIMIT), Err(PushError::OutOfMemory(_))));
        others.into_iter().for_each(|ring| line.memory.free(me(), ring));
        assert_eq!(line.drain(), [0]);
        line
    }

    fn try_put(&self, message: u64, limit: u64) -> Result<(), PushError> {
        self.chain.push(&self.memory, me(), limit, &cell(message), || {})
    }

    fn put(&self, message: u64) {
        self.try_put(message, NO_LIMIT).expect("there is room");
    }

    fn get(&self) -> Result<u64, PopError> {
        let mut cell = Cell::default();
        self.chain.pop(&self.memory, me(), NO_LIMIT, &mut cell, |_| {}).map(|_| cell.payload[0])
    }

    fn peek(&self) -> Result<u64, PopError> {
        let mut cell = Cell::default();
        self.chain.peek(&self.memory, me(), NO_LIMIT, &mut cell, |_| {}).map(|()| cell.payload[0])
    }

    /// Puts several messages; how many were let in.
    fn put_many(&self, messages: &[u64]) -> usize {
        let cells: Vec<_> = messages.iter().map(|message| cell(*message)).collect();
        let mut put = 0;
        while put < cells.len() {
            let rest = &cells[put..];
            match self.chain.push_some(&self.memory, me(), NO_LIMIT, rest.len(), |place| &rest[place], |_| {}) {
                Ok(count) => put += count,
                Err(error) => {
                    assert_eq!(error, PushError::Sealed);
                    break;
                }
            }
        }
        put
    }

    /// Gets up to three messages, the later ones without a look at `head`.
    fn get_many(&self) -> Vec<u64> {
        let mut got = Vec::new();
        let mut cell = Cell::default();
        if let Ok(mut place) = self.chain.pop(&self.memory, me(), NO_LIMIT, &mut cell, |_| {}) {
            got.push(cell.payload[0]);
            while got.len() < 3 && self.chain.pop_next(me(), NO_LIMIT, &mut cell, |_| {}, &mut place) {
                got.push(cell.payload[0]);
            }
            self.chain.leave_place(place);
        }
        got
    }

    /// What the victim does.
    fn put_as_victim(&self, messages: &[u64]) -> usize {
        let cells: Vec<_> = messages.iter().map(|message| cell(*message)).collect();
        let cell = |place: usize| &cells[place];
        self.chain.push_some(&self.memory, victim(), NO_LIMIT, cells.len(), cell, |_| {}).expect("there is room")
    }

    fn get_as_victim(&self) -> Option<u64> {
        let mut cell = Cell::default();
        self.chain.pop(&self.memory, victim(), NO_LIMIT, &mut cell, |_| {}).ok().map(|_| cell.payload[0])
    }

    /// Recovers what the victim left, which was joined: that is as sure as what the kernel says.
    fn recover(&self) {
        self.chain.recover(&self.memory, victim(), &mut &*self);
        self.memory.sweep(victim());
    }

    fn recovered(&self) -> std::sync::MutexGuard<'_, Recovered> {
        self.recovered.lock().expect("nobody panics here")
    }

    /// All that recovery gave back.
    fn returned(&self) -> Vec<u64> {
        self.recovered().returned.iter().map(|(_, message)| *message).collect()
    }

    /// All that is left.
    fn drain(&self) -> Vec<u64> {
        std::iter::from_fn(|| self.get().ok()).collect()
    }
}

impl Recovery for &Line {
    fn skip(&mut self, plan: impl FnOnce(&mut dyn FnMut(&AtomicU64, u64))) {
        plan(&mut |word, value| word.store(value, Ordering::Release));
        self.recovered().skipped += 1;
    }

    fn complete(&mut self, _cell: &Cell) {}

    fn put_back(&mut self, cell: &Cell, position: u64, meta: &AtomicU64) -> bool {
        meta.store(0, Ordering::Release);
        self.recovered().returned.push((position, cell.payload[0]));
        true
    }
}

fn victim() -> PeerId {
    PeerId::new(2).unwrap()
}

fn cell(message: u64) -> Cell {
    let mut cell = Cell { meta: Meta { kind: 0, pins: 0, length: 8 }.pack(), ..Cell::default() };
    cell.payload[0] = message;
    cell
}

fn sorted(mut messages: Vec<u64>) -> Vec<u64> {
    messages.sort_unstable();
    messages
}

// ---------------------------------------------------------------------------------------------- ring

/// Two producers at once: both messages are in.
fn put_put() {
    let line = Arc::new(Line::new(&[2]));
    let other = line.clone();
    let producer = thread::spawn(move || other.put(1));
    line.put(2);
    producer.join().unwrap();
    assert_eq!(sorted(line.drain()), [1, 2]);
}

#[test]
fn put_put_holds() {
    check(3, put_put);
}

/// A producer and a consumer: what is got is what was put, in that order, and nothing is lost. The second message
/// goes into the slot that the first has left, or into the next ring.
fn put_get() {
    let line = Arc::new(Line::new(&[1, 2]));
    let other = line.clone();
    let producer = thread::spawn(move || {
        other.put(1);
        other.put(2);
    });
    let mut got = Vec::from_iter(line.get());
    got.extend(line.get());
    producer.join().unwrap();
    got.extend(line.drain());
    assert_eq!(got, [1, 2], "what was put is got");
}

#[test]
fn put_get_holds() {
    check(3, put_get);
}

#[test]
#[should_panic(expected = "what was put is got")]
fn put_get_fails_without_commit() {
    twin(3, Part::Commit, put_get);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn put_get_fails_without_hand_back() {
    twin(3, Part::HandBack, put_get);
}

#[test]
#[should_panic(expected = "what was put is got")]
fn put_get_fails_without_word_seen() {
    twin(3, Part::WordSeen, put_get);
}

/// Two consumers at once: each gets a message of its own, and neither is told that there is none.
fn get_get() {
    let line = Arc::new(Line::with(&[2], &[1, 2]));
    let other = line.clone();
    let consumer = thread::spawn(move || other.get().unwrap());
    let mine = line.get().unwrap();
    assert_eq!(mine + consumer.join().unwrap(), 3);
    assert_eq!(line.get(), Err(PopError::Empty));
}

#[test]
fn get_get_holds() {
    check(3, get_get);
}

/// A message that is being written is waited for: nobody overtakes it, and nobody takes it for absent.
#[test]
fn busy_slot_holds_the_order() {
    loom::model(|| {
        let line = Line::new(&[2]);
        let on_claim = || {
            assert_eq!(line.get(), Err(PopError::Busy));
            line.put(2);
            assert_eq!(line.get(), Err(PopError::Busy));
        };
        line.chain.push(&line.memory, me(), NO_LIMIT, &cell(1), on_claim).unwrap();
        assert_eq!(line.drain(), [1, 2]);
    });
}

/// A consumer that stops while it reads delays nobody: producers go on in another ring, and others consume there.
#[test]
fn slow_consumer_delays_nobody() {
    loom::model(|| {
        let line = Line::with(&[1, 2], &[1]);
        let on_claim = |_: &Cell| {
            line.put(2);
            assert_eq!(line.drain(), [2]);
            assert_eq!(line.memory.taken(), 2);
        };
        let mut first = Cell::default();
        line.chain.pop(&line.memory, me(), NO_LIMIT, &mut first, on_claim).unwrap();
        assert_eq!((first.payload[0], line.drain()), (1, vec![]));
    });
}

// ---------------------------------------------------------------------------------------------- batches

/// A batch and another producer: all messages are in, those of the batch in their order.
fn put_many_put() {
    let line = Arc::new(Line::new(&[4]));
    let other = line.clone();
    let producer = thread::spawn(move || other.put(3));
    assert_eq!(line.put_many(&[1, 2]), 2);
    producer.join().unwrap();
    let got = line.drain();
    assert_eq!(got.iter().copied().filter(|message| *message < 3).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(sorted(got), [1, 2, 3]);
}

#[test]
fn put_many_put_holds() {
    check(3, put_many_put);
}

/// A batch in and a batch out: what is got is what was put, in that order, and there never seem to be more messages
/// than were put, or fewer than none.
fn put_many_get_many() {
    let line = Arc::new(Line::new(&[2, 2]));
    let other = line.clone();
    let producer = thread::spawn(move || other.put_many(&[1, 2]));
    let mut got = line.get_many();
    assert!(line.chain.len() <= 2, "as many as there are");
    got.extend(line.get_many());
    assert_eq!(producer.join().unwrap(), 2);
    got.extend(line.get_many());
    assert_eq!(got, [1, 2], "what was put is got");
    assert_eq!((line.chain.len(), line.chain.pushed()), (0, 2), "as many as there are");
}

#[test]
fn put_many_get_many_holds() {
    check(3, put_many_get_many);
}

#[test]
#[should_panic(expected = "as many as there are")]
fn put_many_get_many_fails_without_tail_first() {
    twin(3, Part::TailFirst, put_many_get_many);
}

#[test]
#[should_panic(expected = "what was put is got")]
fn put_many_get_many_fails_without_next_seen() {
    twin(3, Part::NextSeen, put_many_get_many);
}

/// A batch goes into the slots that a consumer leaves, or into the next ring.
fn put_many_into_left_slots() {
    let line = Arc::new(Line::with(&[2, 2], &[1, 2]));
    let other = line.clone();
    let consumer = thread::spawn(move || [other.get().unwrap(), other.get().unwrap()]);
    assert_eq!(line.put_many(&[3, 4]), 2);
    assert_eq!(consumer.join().unwrap(), [1, 2]);
    assert_eq!(line.drain(), [3, 4]);
}

#[test]
fn put_many_into_left_slots_holds() {
    check(3, put_many_into_left_slots);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn put_many_into_left_slots_fails_without_next_seen() {
    twin(3, Part::NextSeen, put_many_into_left_slots);
}

/// Two who take several at once: each message is got once, and by each in their order.
fn get_many_get_many() {
    let line = Arc::new(Line::with(&[4], &[1, 2, 3]));
    let other = line.clone();
    let consumer = thread::spawn(move || other.get_many());
    let mine = line.get_many();
    let theirs = consumer.join().unwrap();
    assert!(mine.is_sorted() && theirs.is_sorted());
    let mut got = [mine, theirs].concat();
    got.extend(line.drain());
    assert_eq!(sorted(got), [1, 2, 3]);
}

#[test]
fn get_many_get_many_holds() {
    check(3, get_many_get_many);
}

/// Of a batch that meets a seal, the first ones are in.
fn put_many_seal() {
    let line = Arc::new(Line::new(&[4, 2, 2]));
    let other = line.clone();
    let producer = thread::spawn(move || other.put_many(&[1, 2]));
    line.chain.seal(&line.memory, me());
    let put = producer.join().unwrap();
    assert_eq!(line.drain(), [1, 2][..put]);
    assert_eq!((line.get(), line.put_many(&[3])), (Err(PopError::Ended), 0));
}

#[test]
fn put_many_seal_holds() {
    check(3, put_many_seal);
}

/// Whoever goes on in a ring that belongs to another chain by then takes nothing there.
#[test]
fn stale_place_is_empty() {
    loom::model(|| {
        let line = Line::with(&[1, 2], &[1, 2]);
        let mut cell = Cell::default();
        let mut place = line.chain.pop(&line.memory, me(), NO_LIMIT, &mut cell, |_| {}).unwrap();
        assert_eq!((line.get(), line.memory.taken()), (Ok(2), 1));
        let other = Chain::default();
        other.initialize(&line.memory, me(), 1).unwrap();
        for _ in 0..3 {
            other.push(&line.memory, me(), NO_LIMIT, &self::cell(3), || {}).unwrap();
            assert!(!line.chain.pop_next(me(), NO_LIMIT, &mut cell, |_| {}, &mut place));
            other.pop(&line.memory, me(), NO_LIMIT, &mut cell, |_| {}).unwrap();
        }
        line.chain.leave_place(place);
        assert_eq!(line.get(), Err(PopError::Empty));
    });
}

// ---------------------------------------------------------------------------------------------- peek

/// Who looks at the oldest message sees one that is there, and everybody else still gets all of them in their order.
fn peek_get() {
    let line = Arc::new(Line::with(&[2], &[1, 2]));
    let other = line.clone();
    let peeker = thread::spawn(move || other.peek());
    let mut got = Vec::from_iter(line.get());
    got.extend(line.get());
    let seen = peeker.join().unwrap();
    assert!(matches!(seen, Ok(1 | 2) | Err(PopError::Empty)));
    got.extend(line.drain());
    assert_eq!(got, [1, 2], "what was put is got");
}

#[test]
fn peek_get_holds() {
    check(3, peek_get);
}

#[test]
#[should_panic(expected = "what was put is got")]
fn peek_get_fails_without_peeked_stays() {
    twin(3, Part::PeekedStays, peek_get);
}

/// The next message that goes into the slot does not meet the one who has looked at the last.
fn peek_get_put() {
    let line = Arc::new(Line::with(&[1, 1], &[1]));
    let other = line.clone();
    let peeker = thread::spawn(move || other.peek());
    let mut got = Vec::from_iter(line.get());
    line.put(2);
    let seen = peeker.join().unwrap();
    assert!(matches!(seen, Ok(1 | 2) | Err(PopError::Empty | PopError::Busy)));
    got.extend(line.drain());
    assert_eq!(got, [1, 2]);
}

#[test]
fn peek_get_put_holds() {
    check(3, peek_get_put);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn peek_get_put_fails_without_put_back() {
    twin(3, Part::PutBack, peek_get_put);
}

/// Two who look at once see the same, unless one is told that the other is looking.
fn peek_peek() {
    let line = Arc::new(Line::with(&[1], &[1]));
    let other = line.clone();
    let peeker = thread::spawn(move || other.peek());
    let seen = [line.peek(), peeker.join().unwrap()];
    assert!(seen.contains(&Ok(1)) && seen.iter().all(|seen| matches!(seen, Ok(1) | Err(PopError::Peeked))));
    assert_eq!(line.drain(), [1]);
}

#[test]
fn peek_peek_holds() {
    check(3, peek_peek);
}

/// A message that is looked at has its place: the limit holds, and a full ring is closed and left behind it.
fn peek_full() {
    let line = Arc::new(Line::with(&[1, 2], &[1]));
    let other = line.clone();
    let peeker = thread::spawn(move || other.peek());
    assert_eq!(line.try_put(2, 1), Err(PushError::Full));
    line.put(2);
    assert_eq!(peeker.join().unwrap(), Ok(1));
    assert_eq!(line.drain(), [1, 2]);
    assert_eq!(line.memory.taken(), 1);
}

#[test]
fn peek_full_holds() {
    check(3, peek_full);
}

/// A message that is looked at is waited for, by those who take and by those who look.
#[test]
fn peeked_slot_holds_the_order() {
    loom::model(|| {
        let line = Line::with(&[2], &[1]);
        let on_claim = |_: &Cell| {
            line.put(2);
            assert!(line.chain.is_busy(&line.memory));
            assert_eq!((line.get(), line.peek()), (Err(PopError::Peeked), Err(PopError::Peeked)));
            assert_eq!((line.chain.len(), line.chain.popped()), (2, 0));
        };
        line.chain.peek(&line.memory, me(), NO_LIMIT, &mut Cell::default(), on_claim).unwrap();
        assert!(!line.chain.is_busy(&line.memory));
        assert_eq!(line.drain(), [1, 2]);
    });
}

/// A line, and an event for those who wait for its messages.
struct Post {
    line: Line,
    bell: Bell,
    event: Event,
}

impl Post {
    fn with(messages: &[u64]) -> Arc<Post> {
        Arc::new(Post { line: Line::with(&[2], messages), bell: Bell::default(), event: Event::default() })
    }

    fn wait(&self, attempt: impl Fn(&Line) -> Result<u64, PopError>) -> u64 {
        let attempt = || attempt(&self.line).ok();
        let result = self.event.wait_until(&self.bell, &Patience::endless(), attempt, || !self.line.chain.is_empty());
        result.unwrap()
    }

    fn peek(&self) -> u64 {
        let seen = self.wait(Line::peek);
        self.event.notify_one(&self.bell);
        seen
    }
}

/// A consumer that falls asleep because somebody is looking is woken when that one is done.
fn peek_wakes() {
    let post = Post::with(&[1]);
    let other = post.clone();
    let consumer = thread::spawn(move || other.wait(Line::get));
    let seen = post.line.peek();
    post.event.notify_one(&post.bell);
    assert_eq!(consumer.join().unwrap(), 1);
    assert!(matches!(seen, Ok(1) | Err(PopError::Empty)));
}

#[test]
fn peek_wakes_holds() {
    check(3, peek_wakes);
}

#[test]
#[should_panic(expected = "deadlock")]
fn peek_wakes_fails_without_notify_fence() {
    twin(3, Part::NotifyFence, peek_wakes);
}

/// The wake for a message may go to one who only looks: it is passed on to one who takes.
fn peek_passes_on() {
    let post = Post::with(&[]);
    let [peeker, consumer] = [post.clone(), post.clone()];
    let consumer = thread::spawn(move || consumer.wait(Line::get));
    let peeker = thread::spawn(move || peeker.peek());
    for message in [1, 2] {
        post.line.put(message);
        post.event.notify_one(&post.bell);
    }
    assert_eq!(consumer.join().unwrap(), 1);
    assert!(matches!(peeker.join().unwrap(), 1 | 2));
}

#[test]
fn peek_passes_on_holds() {
    check(2, peek_passes_on);
}

#[test]
#[should_panic(expected = "deadlock")]
fn peek_passes_on_fails_without_pass_on() {
    twin(2, Part::PassOn, peek_passes_on);
}

// ---------------------------------------------------------------------------------------------- limit

/// The limit is never exceeded, and Full is not said before it is reached: of two producers one gets the one place.
fn limit_of_one() {
    let line = Arc::new(Line::new(&[2]));
    let other = line.clone();
    let producer = thread::spawn(move || other.try_put(1, 1));
    let results = [line.try_put(2, 1), producer.join().unwrap()];
    assert!(results.contains(&Ok(())) && results.contains(&Err(PushError::Full)), "{results:?}");
    assert_eq!(line.drain().len(), 1);
}

#[test]
fn limit_of_one_holds() {
    check(3, limit_of_one);
}

/// With a consumer, too: as many are let in as are taken out, and one.
fn limit_with_consumer() {
    let line = Arc::new(Line::with(&[1, 1, 1], &[0]));
    let other = line.clone();
    let consumer = thread::spawn(move || other.get().unwrap());
    let let_in = [1, 2].into_iter().filter(|message| line.try_put(*message, 1).is_ok()).count();
    assert_eq!(consumer.join().unwrap(), 0);
    assert!(let_in <= 1);
    assert_eq!(line.drain().len(), let_in);
    assert_eq!(line.try_put(3, 1), Ok(()));
}

#[test]
fn limit_with_consumer_holds() {
    check(3, limit_with_consumer);
}

/// Full is said only if the limit was reached at some moment of the call, however much comes and goes meanwhile.
fn full_is_exact() {
    let line = Arc::new(Line::new(&[4]));
    let other = line.clone();
    // At most one message of this thread's is in the line at a time.
    let busy = thread::spawn(move || {
        for message in 1..=3 {
            other.try_put(message, 2).unwrap();
            if message < 3 && other.get().is_err() {
                return; // the other's message is at the head, and being written
            }
        }
    });
    assert_eq!(line.try_put(4, 2), Ok(()));
    busy.join().unwrap();
}

#[test]
fn full_is_exact_holds() {
    check(3, full_is_exact);
}

#[test]
#[should_panic(expected = "Err(Full)")]
fn full_is_exact_fails_without_claim() {
    twin(3, Part::Claim, full_is_exact);
}

/// What is counted while messages come and go was there at some moment, and never more than the limit.
fn count_within_limit() {
    let line = Arc::new(Line::with(&[2], &[1]));
    let other = line.clone();
    let busy = thread::spawn(move || {
        other.get().unwrap();
        other.try_put(2, 1).unwrap();
    });
    assert!(line.chain.len() <= 1);
    busy.join().unwrap();
    assert_eq!((line.chain.len(), line.chain.pushed()), (1, 2));
}

#[test]
fn count_within_limit_holds() {
    check(3, count_within_limit);
}

// ---------------------------------------------------------------------------------------------- chain

/// Two producers find the ring full at once: one closes it, one links the next, and both go on there.
fn close_close() {
    let line = Arc::new(Line::with(&[1, 2, 2], &[1]));
    let other = line.clone();
    let producer = thread::spawn(move || other.put(2));
    line.put(3);
    producer.join().unwrap();
    assert_eq!(line.memory.taken(), 2, "one ring was linked");
    let got = line.drain();
    assert_eq!((got[0], sorted(got)), (1, vec![1, 2, 3]));
    assert_eq!(line.memory.taken(), 1);
}

#[test]
fn close_close_holds() {
    check(2, close_close);
}

#[test]
#[should_panic(expected = "exceeded maximum number of branches")] // for ever in a ring without a turn
fn close_close_fails_without_move_on() {
    twin(2, Part::MoveOn, close_close);
}

#[test]
#[should_panic(expected = "exceeded maximum number of branches")] // for ever in a ring without a turn
fn close_close_fails_without_ring_seen() {
    twin(2, Part::RingSeen, close_close);
}

#[test]
#[should_panic(expected = "exceeded maximum number of branches")] // for ever in a ring without a turn
fn close_close_fails_without_link() {
    twin(2, Part::Link, close_close);
}

/// A producer goes on to the next ring and a consumer follows it there, while the first ring is given back.
fn close_leave() {
    let line = Arc::new(Line::with(&[1, 1, 1], &[1]));
    let other = line.clone();
    let consumer = thread::spawn(move || [other.get(), other.get()].into_iter().flatten().collect::<Vec<_>>());
    line.put(2);
    line.put(3);
    let mut got = consumer.join().unwrap();
    got.extend(line.drain());
    assert_eq!(got, [1, 2, 3]);
}

#[test]
fn close_leave_holds() {
    check(2, close_leave);
}

/// A producer that was stopped with an old name of the ring in its hand does not put into that ring any more.
fn stale_producer() {
    let line = Arc::new(Line::with(&[2, 2, 2], &[1, 2]));
    let other = line.clone();
    let stale = thread::spawn(move || other.put(4));
    line.put(3); // closes the first ring
    let mut got = vec![line.get().unwrap(), line.get().unwrap()];
    stale.join().unwrap();
    got.extend(line.drain());
    assert_eq!(sorted(got), [1, 2, 3, 4]);
}

#[test]
fn stale_producer_holds() {
    check(2, stale_producer);
}

#[test]
#[should_panic(expected = "left: [1, 2, 3]")]
fn stale_producer_fails_without_same_ring() {
    twin(2, Part::SameRing, stale_producer);
}

/// A consumer that was stopped with an old name of the ring in its hand does not find it empty.
fn stale_consumer() {
    let line = Arc::new(Line::with(&[2, 2], &[1, 2, 3, 4]));
    line.get().unwrap();
    let other = line.clone();
    let stale = thread::spawn(move || other.get().expect("there is a message for everybody"));
    let mut got: Vec<_> = (0..2).map(|_| line.get().expect("there is a message for everybody")).collect();
    got.push(stale.join().unwrap());
    assert_eq!(sorted(got), [2, 3, 4]);
}

#[test]
fn stale_consumer_holds() {
    check(2, stale_consumer);
}

#[test]
#[should_panic(expected = "there is a message for everybody")]
fn stale_consumer_fails_without_same_ring() {
    twin(2, Part::SameRing, stale_consumer);
}

/// Two consumers follow a producer into the next ring at once.
fn leave_leave() {
    let line = Arc::new(Line::closed(&[1, 1]));
    let [producer, consumer] = [line.clone(), line.clone()];
    let producer = thread::spawn(move || producer.put(1));
    let consumer = thread::spawn(move || consumer.get());
    let mut got: Vec<_> = [line.get(), consumer.join().unwrap()].into_iter().flatten().collect();
    producer.join().unwrap();
    got.extend(line.drain());
    assert_eq!(got, [1]);
}

#[test]
fn leave_leave_holds() {
    check(2, leave_leave);
}

#[test]
#[should_panic(expected = "exceeded maximum number of branches")] // it runs away over positions that nobody has put
fn leave_leave_fails_without_leave() {
    twin(2, Part::Leave, leave_leave);
}

/// A stale producer again, and a consumer that knows nothing of the next ring.
fn stale_producer_beside_consumer() {
    let line = Arc::new(Line::with(&[2, 2, 2], &[1, 2]));
    let [stale, consumer] = [line.clone(), line.clone()];
    let stale = thread::spawn(move || stale.put(4));
    let consumer = thread::spawn(move || [consumer.get().unwrap(), consumer.get().unwrap()]);
    line.put(3);
    let mut got = consumer.join().unwrap().to_vec();
    stale.join().unwrap();
    got.extend(line.drain());
    assert_eq!(sorted(got), [1, 2, 3, 4], "each message once");
}

#[test]
fn stale_producer_beside_consumer_holds() {
    check(1, stale_producer_beside_consumer);
}

#[test]
#[should_panic(expected = "each message once")]
fn stale_producer_beside_consumer_fails_without_advance() {
    twin(1, Part::Advance, stale_producer_beside_consumer);
}

#[test]
#[should_panic(expected = "each message once")]
fn stale_producer_beside_consumer_fails_without_hint_seen() {
    twin(1, Part::HintSeen, stale_producer_beside_consumer);
}

// ---------------------------------------------------------------------------------------------- seal

/// What came in before the seal is got before the end is told; what came later was refused.
fn seal_put_get() {
    let line = Arc::new(Line::new(&[2]));
    let [producer, consumer] = [line.clone(), line.clone()];
    let producer = thread::spawn(move || producer.try_put(1, NO_LIMIT).is_ok());
    let consumer = thread::spawn(move || [consumer.get(), consumer.get()]);
    line.chain.seal(&line.memory, me());
    let early = consumer.join().unwrap();
    let put = producer.join().unwrap();
    assert!(early != [Err(PopError::Ended), Ok(1)]);
    let mut got: Vec<_> = early.into_iter().flatten().collect();
    if early.contains(&Err(PopError::Ended)) {
        assert_eq!(got.len(), usize::from(put), "nothing is left behind the end");
    }
    got.extend(line.drain());
    assert_eq!(got.len(), usize::from(put));
    assert_eq!((line.get(), line.try_put(2, 1)), (Err(PopError::Ended), Err(PushError::Sealed)));
}

#[test]
fn seal_put_get_holds() {
    check(2, seal_put_get);
}

/// So it is when the last ring is full, and another one is being linked.
fn seal_close() {
    let line = Arc::new(Line::with(&[1, 2], &[1]));
    let other = line.clone();
    let producer = thread::spawn(move || other.try_put(2, NO_LIMIT).is_ok());
    line.chain.seal(&line.memory, me());
    let mut expected = vec![1];
    if producer.join().unwrap() {
        expected.push(2);
    }
    assert_eq!(line.drain(), expected);
    assert_eq!((line.get(), line.try_put(3, 1)), (Err(PopError::Ended), Err(PushError::Sealed)));
    line.chain.destroy(&line.memory, me());
    assert_eq!(line.memory.taken(), 0);
}

#[test]
fn seal_close_holds() {
    check(3, seal_close);
}

// ---------------------------------------------------------------------------------------------- memory that comes back

/// A ring in which a consumer still reads is not given back; its memory's next user and that consumer never meet.
fn slow_reader() {
    let line = Arc::new(Line::with(&[1, 1], &[1, 2]));
    let consumer = || {
        let line = line.clone();
        thread::spawn(move || line.get().unwrap())
    };
    let consumers = [consumer(), consumer()]; // one of them leaves the first ring
    let next = Chain::default();
    if next.initialize(&line.memory, me(), 1).is_ok() {
        next.push(&line.memory, me(), NO_LIMIT, &cell(3), || {}).unwrap();
    }
    assert_eq!(sorted(consumers.map(|consumer| consumer.join().unwrap()).to_vec()), [1, 2]);
}

#[test]
fn slow_reader_holds() {
    check(3, slow_reader);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn slow_reader_fails_without_readers_left() {
    twin(3, Part::ReadersLeft, slow_reader);
}

/// A consumer that meets its old ring as that of another chain takes nothing in it for its own.
fn reused_before_consumer() {
    let line = Arc::new(Line::with(&[1, 1], &[1, 2]));
    assert_eq!(line.get(), Ok(1));
    let [stale, leaver] = [line.clone(), line.clone()].map(|line| thread::spawn(move || line.get()));
    let _ = Chain::default().initialize(&line.memory, me(), 1); // as soon as the first ring is given back
    let results = [stale.join().unwrap(), leaver.join().unwrap()];
    assert!(results.contains(&Ok(2)) && results.contains(&Err(PopError::Empty)), "the message once: {results:?}");
}

#[test]
fn reused_before_consumer_holds() {
    check(2, reused_before_consumer);
}

#[test]
#[should_panic(expected = "exceeded maximum number of branches")] // it runs away over positions that nobody has put
fn reused_before_consumer_fails_without_new_life() {
    twin(2, Part::NewLife, reused_before_consumer);
}

/// Nor does a producer put into it; and the ring that producers still go to is not given back.
fn reused_before_producer() {
    let line = Arc::new(Line::closed(&[1, 2, 2, 2]));
    let [producer, consumer] = [line.clone(), line.clone()];
    let producer = thread::spawn(move || producer.put(2));
    let consumer = thread::spawn(move || {
        let got = consumer.get();
        let _ = Chain::default().initialize(&consumer.memory, me(), 1);
        got
    });
    line.put(1);
    producer.join().unwrap();
    let mut got = Vec::from_iter(consumer.join().unwrap());
    got.extend(line.drain());
    assert_eq!(sorted(got), [1, 2], "each message once");
}

#[test]
fn reused_before_producer_holds() {
    check(1, reused_before_producer); // and with two preemptions, in a minute
}

#[test]
#[should_panic(expected = "exceeded maximum number of branches")] // it goes round in a ring that is another's now
fn reused_before_producer_fails_without_producers_left() {
    twin(2, Part::ProducersLeft, reused_before_producer);
}

// ---------------------------------------------------------------------------------------------- deaths

/// A producer is killed while somebody consumes, who goes on while it is recovered. Its message is there or it is not;
/// those of others are all there, in their order, and what is counted is right.
fn dead_producer(point: u32) -> bool {
    let line = Arc::new(Line::new(&[2, 2]));
    line.put(1);
    let [victim, consumer] = [line.clone(), line.clone()];
    let victim = thread::spawn(move || die_at(point, || victim.put_as_victim(&[2])).is_none());
    let consumer = thread::spawn(move || [consumer.get(), consumer.get()].into_iter().flatten().collect::<Vec<_>>());
    let is_killed = victim.join().unwrap();
    line.recover();
    let mut got = consumer.join().unwrap();
    assert!(line.chain.popped() <= line.chain.pushed(), "as many as there are");
    line.put(3);
    got.extend(line.drain());
    let skipped = line.recovered().skipped;
    assert!(got == [1, 2, 3] || is_killed && got == [1, 3], "what was put is got: {got:?}");
    assert_eq!((line.chain.len(), line.chain.popped()), (0, line.chain.pushed()), "as many as there are");
    assert_eq!(line.chain.pushed() - skipped, got.len() as u64, "as many as there are");
    is_killed
}

#[test]
fn dead_producer_holds() {
    check_deaths(2, dead_producer);
}

#[test]
#[should_panic(expected = "as many as there are")]
fn dead_producer_fails_without_hole_behind_tail() {
    twin_of_deaths(2, Part::HoleBehindTail, dead_producer);
}

#[test]
#[should_panic(expected = "what was put is got")]
fn dead_producer_fails_without_recovered_commit() {
    twin_of_deaths(2, Part::RecoveredCommit, dead_producer);
}

/// So it is when the ring is full, and the producer links another one.
fn dead_producer_of_a_ring(point: u32) -> bool {
    let line = Arc::new(Line::with(&[1, 1, 1], &[1]));
    let [victim, consumer] = [line.clone(), line.clone()];
    let victim = thread::spawn(move || die_at(point, || victim.put_as_victim(&[2])).is_none());
    let consumer = thread::spawn(move || [consumer.get(), consumer.get()].into_iter().flatten().collect::<Vec<_>>());
    let is_killed = victim.join().unwrap();
    line.recover();
    let mut got = consumer.join().unwrap();
    line.put(3);
    got.extend(line.drain());
    assert!(got == [1, 2, 3] || is_killed && got == [1, 3], "what was put is got: {got:?}");
    line.chain.destroy(&line.memory, me());
    assert_eq!(line.memory.taken(), 0, "no ring is lost");
    is_killed
}

#[test]
fn dead_producer_of_a_ring_holds() {
    check_deaths(1, dead_producer_of_a_ring);
}

/// A producer of several messages is killed: the holes that it leaves are next to each other, or not. The slots serve
/// others afterwards.
fn dead_batch(point: u32) -> bool {
    let line = Arc::new(Line::new(&[4]));
    let [victim, producer] = [line.clone(), line.clone()];
    let victim = thread::spawn(move || die_at(point, || victim.put_as_victim(&[1, 2])));
    let producer = thread::spawn(move || producer.put(3));
    let put = victim.join().unwrap(); // both, or one if the other producer came between
    line.recover();
    producer.join().unwrap();
    let count = line.chain.len();
    let got = line.drain();
    assert_eq!((count, line.chain.len()), (got.len() as u64, 0), "as many as there are");
    let theirs: Vec<_> = got.iter().copied().filter(|message| *message < 3).collect();
    assert!(got.contains(&3) && put.map_or([1, 2].starts_with(&theirs), |put| theirs == [1, 2][..put]), "{got:?}");
    assert_eq!(line.chain.pushed() - line.recovered().skipped, got.len() as u64);
    for message in 4..9 {
        line.put(message);
        assert_eq!(line.get(), Ok(message));
    }
    put.is_none()
}

#[test]
fn dead_batch_holds() {
    check_deaths(2, dead_batch);
}

/// The slot that a dead producer was writing is the next one's.
fn dead_producer_leaves_the_slot(point: u32) -> bool {
    let line = Arc::new(Line::new(&[1, 1]));
    let [victim, other] = [line.clone(), line.clone()];
    let victim = thread::spawn(move || die_at(point, || victim.put_as_victim(&[1])).is_none());
    let producer = thread::spawn(move || other.put(2));
    let is_killed = victim.join().unwrap();
    line.recover();
    producer.join().unwrap();
    let got = sorted(line.drain());
    assert!(got == [1, 2] || is_killed && got == [2], "what was put is got: {got:?}");
    is_killed
}

#[test]
fn dead_producer_leaves_the_slot_holds() {
    check_deaths(2, dead_producer_leaves_the_slot);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn dead_producer_leaves_the_slot_fails_without_recovered_slot() {
    twin_of_deaths(2, Part::RecoveredSlot, dead_producer_leaves_the_slot);
}

/// A consumer is killed, while others put and get: its message comes back, unless it had all of it.
fn dead_consumer(point: u32) -> bool {
    let line = Arc::new(Line::with(&[1, 2], &[1, 2]));
    let [victim, other] = [line.clone(), line.clone()];
    let victim = thread::spawn(move || {
        let mut got = None;
        (die_at(point, || got = victim.get_as_victim()).is_none(), got)
    });
    let other = thread::spawn(move || {
        let got = other.get();
        other.put(3);
        got
    });
    let (is_killed, theirs) = victim.join().unwrap();
    line.recover();
    let mut got = line.returned();
    got.extend(other.join().unwrap());
    got.extend(line.drain());
    assert!(got.len() == 3 || got.len() == 2 && (theirs.is_some() || is_killed), "{got:?}");
    let all = sorted(got.iter().copied().chain(theirs).collect());
    assert!(all == [1, 2, 3] || is_killed && (all == [2, 3] || all == [1, 3]), "each message once: {all:?}");
    assert_eq!((line.chain.len(), line.chain.popped()), (0, line.chain.pushed()), "as many as there are");
    is_killed
}

#[test]
fn dead_consumer_holds() {
    check_deaths(1, dead_consumer);
}

/// Who is killed while it looks leaves the message where it is, and the slot to the next one.
fn dead_peeker(point: u32) -> bool {
    let line = Arc::new(Line::with(&[1, 1], &[1]));
    let [victim, other] = [line.clone(), line.clone()];
    let victim = thread::spawn(move || {
        let mut cell = Cell::default();
        let peek = || victim.chain.peek(&victim.memory, self::victim(), NO_LIMIT, &mut cell, |_| {});
        die_at(point, peek).is_none()
    });
    let other = thread::spawn(move || {
        let got = other.get();
        other.put(2);
        got
    });
    let is_killed = victim.join().unwrap();
    line.recover();
    let mut got = Vec::from_iter(other.join().unwrap());
    got.extend(line.drain());
    assert_eq!(got, [1, 2]);
    is_killed
}

#[test]
fn dead_peeker_holds() {
    check_deaths(2, dead_peeker);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn dead_peeker_fails_without_recovered_slot() {
    twin_of_deaths(2, Part::RecoveredSlot, dead_peeker);
}

/// Whoever recovers may be killed, too: another one does the rest, nothing is done twice, and a live peer goes on.
fn dead_recoverer(point: u32, next: u32) -> [bool; 2] {
    let line = Arc::new(Line::with(&[4], &[1]));
    let is_killed = die_at(point, || (line.put_as_victim(&[2, 3]), line.get_as_victim())).is_none();
    let other = line.clone();
    let consumer = thread::spawn(move || Vec::from_iter(other.get()));
    let is_recoverer_killed = die_at(next, || line.recover()).is_none();
    line.recover();
    line.recover(); // nothing is left to do
    let mut got = [line.returned(), consumer.join().unwrap(), line.drain()].concat();
    let skipped = line.recovered().skipped;
    assert_eq!((line.chain.len(), line.chain.pushed()), (0, line.chain.popped()), "as many as there are");
    got = sorted(got);
    got.dedup();
    let theirs = line.chain.pushed() - skipped - got.len() as u64;
    assert!(theirs <= 1, "each message is got, or was theirs: {got:?}");
    [is_killed, is_recoverer_killed]
}

#[test]
fn dead_recoverer_holds() {
    for next in 0.. {
        let is_reached = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let reached = is_reached.clone();
        check_deaths(1, move |point| {
            let [is_killed, is_recoverer_killed] = dead_recoverer(point, next);
            if is_recoverer_killed {
                reached.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            is_killed
        });
        if !is_reached.load(std::sync::atomic::Ordering::Relaxed) {
            return;
        }
    }
}

/// Rings are given back and become those of another chain while somebody walks along them: each slot of the dead is put
/// right nevertheless.
fn recovered_while_rings_go(point: u32) -> bool {
    let line = Arc::new(Line::with(&[1, 1, 1], &[1]));
    let is_killed = die_at(point, || line.put_as_victim(&[2])).is_none(); // in the second ring
    let other = line.clone();
    let consumer = thread::spawn(move || {
        let got = [other.get(), other.get()];
        let _ = Chain::default().initialize(&other.memory, me(), 1); // in the first ring, if it was given back
        got
    });
    line.recover();
    let mut got: Vec<_> = consumer.join().unwrap().into_iter().flatten().collect();
    let last = line.get();
    assert!(matches!(last, Ok(2) | Err(PopError::Empty)), "nobody waits for the dead: {last:?}");
    got.extend(last);
    line.put(3);
    got.extend(line.drain());
    assert!(got == [1, 2, 3] || is_killed && got == [1, 3], "{got:?}");
    is_killed
}

#[test]
fn recovered_while_rings_go_holds() {
    check_deaths(2, recovered_while_rings_go);
}

#[test]
#[should_panic(expected = "nobody waits for the dead")]
fn recovered_while_rings_go_fails_without_same_first() {
    twin_of_deaths(2, Part::SameFirst, recovered_while_rings_go);
}

/// A ring in which a dead participant has a slot is not another's before that is recovered.
fn dead_reader_keeps_the_ring(point: u32) -> bool {
    let line = Arc::new(Line::with(&[1, 1], &[1, 2]));
    let is_killed = die_at(point, || line.get_as_victim()).is_none();
    let other = line.clone();
    let consumer = thread::spawn(move || {
        let got = Vec::from_iter(other.get()); // leaves the first ring
        let next = Chain::default();
        if next.initialize(&other.memory, me(), 1).is_ok() {
            let mut cell = cell(3);
            next.push(&other.memory, me(), NO_LIMIT, &cell, || {}).unwrap();
            let result = next.pop(&other.memory, me(), NO_LIMIT, &mut cell, |_| {});
            assert!(result.is_ok() && cell.payload[0] == 3, "the ring is the other chain's");
        }
        got
    });
    line.recover();
    let got = [line.returned(), consumer.join().unwrap(), line.drain()].concat();
    assert!(got == [1, 2] || got == [2] || got == [2, 1], "each message once: {got:?}");
    is_killed
}

#[test]
fn dead_reader_keeps_the_ring_holds() {
    check_deaths(2, dead_reader_keeps_the_ring);
}

#[test]
#[should_panic(expected = "the ring is the other chain's")]
fn dead_reader_keeps_the_ring_fails_without_readers_left() {
    twin_of_deaths(2, Part::ReadersLeft, dead_reader_keeps_the_ring);
}

/// Checks a model of deaths without a part of the protocol; it is expected to fail.
fn twin_of_deaths(preemptions: usize, part: Part, model: fn(u32) -> bool) {
    without(part, || check_deaths(preemptions, model));
}
