//! Somebody writes anything over a region: nothing that is done there crashes, panics or hangs.
//!
//! Each input is a copy of a region that was in use, in which everybody is dead, with some of its bytes changed by a
//! generator that starts from a number. A newcomer then does everything there is to do. In every other kind of input
//! a thread goes on changing words meanwhile.
//!
//! Inputs are tried in child processes, many in each, so that a crash ends no more than a child; the parent goes on
//! behind the number that it was at. `overwritten.txt` has numbers that once led to one, and they are tried first.
//! `MULTIGIL_INPUTS` says how many others are, and `MULTIGIL_FIRST_INPUT` from which on.

#![cfg(target_os = "linux")]
#![expect(unsafe_code, reason = "fork, timers, and words that are written over")]
#![expect(clippy::disallowed_types, reason = "not the engine's words")]

#[path = "support/dice.rs"]
mod dice;
mod support;

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use multigil::barrier::{Arrival, Barrier};
use multigil::condition::Condition;
use multigil::control::AnyQueue;
use multigil::event::{Parker, Patience, Watchable, wait_any};
use multigil::flag::Flag;
use multigil::key::{Encoder, Key};
use multigil::layout::{ObjectId, ObjectKind, PeerId};
use multigil::lock::{Lock, Owner, RLock};
use multigil::memory::Format;
use multigil::object::{
    Handle, Message, Region, SharedBarrier, SharedCondition, SharedFlag, SharedLock, SharedMemory, SharedRLock,
    SharedSemaphore, SharedState, Watch,
};
use multigil::ordered::{Get, Lifo, LifoQueue, Operation, Order, OrderedQueue, Peek, Priority, PriorityQueue, Put};
use multigil::queue::Queue;
use multigil::semaphore::Semaphore;

use crate::dice::Dice;
use crate::support::photograph::Photograph;

/// How many inputs are a part of each run of the tests.
const SMOKE: u64 = 10_000;
/// Inputs of a child.
const BATCH: u64 = 1_000;
/// After so many failures no more inputs are tried.
const MOST_FAILURES: usize = 20;
/// After so many inputs a word is said.
const PROGRESS: u64 = 10_000;
/// Seconds of processor time that an input may take.
const MOST_WORK: i64 = 1;
/// Seconds that it may take on a machine that does many other things.
const MOST_TIME: i64 = 60;

/// Changes of words while somebody works with them.
const MOST_CHANGES: u32 = 5_000;

const WORD: u64 = 8;

impl Dice {
    fn under(&mut self, limit: u64) -> u64 {
        self.below(limit as usize) as u64
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A region with objects of all kinds, in use, and where what is in there.
struct Model {
    photograph: Photograph,
    objects: Vec<(ObjectKind, ObjectId)>,
    /// Where words are that are not zero, and what they hold.
    used: Vec<(u64, u64)>,
    /// Words of objects.
    states: Vec<u64>,
    /// Where the first words of the file's parts are, that of the header included.
    parts: Vec<(u64, u64)>,
}

impl Model {
    fn new() -> Model {
        let regions: Vec<Region> = {
            let first = Region::new().unwrap();
            let others: Vec<_> = (0..2).map(|_| Region::open(first.file()).unwrap()).collect();
            std::iter::once(first).chain(others).collect()
        };
        let peers: Vec<(&Region, PeerId)> = regions.iter().map(|region| (region, region.register().unwrap())).collect();
        let (region, me) = peers[0];
        let mut objects = Vec::new();
        let mut states = Vec::new();
        let mut pinned = Vec::new();
        let lock = made(region.create_shared::<Lock>(me, |_| {}).unwrap(), &mut objects, &mut states);
        pinned.push((lock.id(), ObjectKind::Lock));
        for (maxsize, redelivers) in [(0, false), (5, false), (0, true)] {
            let queue = made(region.create_queue(me, maxsize).unwrap(), &mut objects, &mut states);
            assert!(queue.set_redelivers(redelivers, region, me));
            fill(queue.id(), &peers, &pinned);
            pinned.push((queue.id(), ObjectKind::Queue));
        }
        fill_ordered::<Lifo>(
            &made(region.create_ordered_queue(me, 0).unwrap(), &mut objects, &mut states),
            peers[1],
            &pinned,
        );
        let priority = made(region.create_ordered_queue(me, 300).unwrap(), &mut objects, &mut states);
        fill_ordered::<Priority>(&priority, peers[0], &pinned);
        let owners = [peers[0].1, peers[1].1, peers[2].1].map(|peer| Owner { peer, thread: 1 });
        assert_eq!(lock.try_acquire(owners[1]), Ok(true));
        let (parker, soon) = (Parker::default(), Instant::now() + Duration::from_millis(1));
        let patience = Patience::new(Some(soon), Duration::ZERO, &parker);
        assert!(lock.waiter(owners[0]).sleep(&patience).is_err());
        let rlock = made(region.create_shared::<RLock>(me, |_| {}).unwrap(), &mut objects, &mut states);
        assert_eq!((rlock.try_acquire(owners[2]), rlock.try_acquire(owners[2])), (Ok(true), Ok(true)));
        let flag = made(region.create_shared::<Flag>(me, |_| {}).unwrap(), &mut objects, &mut states);
        flag.set(region.bell());
        let semaphore = made(
            region.create_shared::<Semaphore>(me, |semaphore| semaphore.initialize(9, true)).unwrap(),
            &mut objects,
            &mut states,
        );
        owners.iter().for_each(|owner| assert!(semaphore.try_acquire(owner.peer)));
        let condition = made(region.create_shared::<Condition>(me, |_| {}).unwrap(), &mut objects, &mut states);
        for place in 0..30 {
            std::mem::forget(condition.sit(region, owners[place % 3]).unwrap()); // more than the object has seats
        }
        condition.notify(region, 3);
        let barrier = made(
            region.create_shared::<Barrier>(me, |barrier| barrier.initialize(4)).unwrap(),
            &mut objects,
            &mut states,
        );
        owners.iter().skip(1).for_each(|owner| std::mem::forget(barrier.try_arrive(region, *owner).unwrap()));
        let memory =
            made(region.create_memory(me, Format { meaning: 1, width: 8 }, 4096).unwrap(), &mut objects, &mut states);
        memory.element(7).unwrap().store(7);
        std::mem::forget(region.create_named_memory(me, "cells", Format { meaning: 2, width: 4 }, 100).unwrap());
        region.give_name(me, 1, "inbox", (priority.id(), ObjectKind::PriorityQueue), None).unwrap();
        region.give_name(me, 2, "door", (lock.id(), ObjectKind::Lock), None).unwrap();
        let companion = Some((lock.id(), ObjectKind::Lock));
        region.give_name(me, 2, "gate", (barrier.id(), ObjectKind::Barrier), companion).unwrap();
        // A message that nobody has put yet, and references of all three.
        let mut unsent = Message::new(peers[2].0, peers[2].1);
        unsent.allocate(1, 5000, &pinned).unwrap();
        std::mem::forget(unsent);
        std::mem::forget(peers[2].0.attach::<SharedLock>(lock.id(), peers[2].1).unwrap());

        let photograph = Photograph::of(region);
        std::mem::forget((lock, rlock, flag, semaphore, condition, barrier, memory, priority));
        let mut used = Vec::new();
        for (start, data) in &photograph.parts {
            let words = data.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
            used.extend((*start..).step_by(8).zip(words).filter(|(_, word)| *word != 0));
        }
        let parts = photograph.parts.iter().map(|(start, data)| (*start, data.len() as u64)).collect();
        let states = states.into_iter().flat_map(|(address, bytes)| {
            let start = offset_of(address);
            (start..start + bytes).step_by(8)
        });
        Model { objects, used, states: states.collect(), parts, photograph }
    }

    /// A place of a word, mostly of one that matters.
    fn place(&self, dice: &mut Dice) -> u64 {
        let place = match dice.under(20) {
            0..6 => dice.of(&self.used).0,
            6..9 => dice.of(&self.used).0.wrapping_add(dice.under(33) * WORD).wrapping_sub(16 * WORD),
            9..15 => *dice.of(&self.states),
            15..17 => dice.under(100) * WORD,
            17..18 => dice.under(2_400) * WORD,
            _ => {
                let (start, bytes) = *dice.of(&self.parts);
                start + dice.under(bytes / WORD) * WORD
            }
        };
        place.min(self.photograph.bytes - WORD)
    }

    /// What is written over a word that holds `old`.
    fn value(&self, dice: &mut Dice, old: u64) -> u64 {
        const BORDERS: [u64; 12] =
            [0, 1, u64::MAX, i64::MAX as u64, 1 << 63, u32::MAX as u64, 1 << 32, 1 << 18, 4096, 128, 112, 1 << 37];
        match dice.under(16) {
            0 => dice.roll(),
            1 => dice.under(64),
            2 => dice.of(&BORDERS).wrapping_add(dice.under(3)).wrapping_sub(1),
            3 => 0,
            4 => u64::MAX,
            5 => old.wrapping_add(1),
            6 => old.wrapping_sub(1),
            7 | 8 => old ^ 1 << dice.under(64),
            9 => old & !(u64::MAX << dice.under(64)),
            10 => old | u64::MAX << dice.under(64),
            11 => dice.of(&self.used).0,
            12 => old.wrapping_add(1 << dice.under(64)),
            // Another participant's name.
            13 => old & !0xFFF0 | dice.under(8) << 4,
            _ => dice.of(&self.used).1,
        }
    }
}

/// Notes an object, and where it is.
fn made<'r, T: SharedState>(
    handle: Handle<'r, T>,
    objects: &mut Vec<(ObjectKind, ObjectId)>,
    states: &mut Vec<(usize, u64)>,
) -> Handle<'r, T> {
    objects.push((T::KIND, handle.id()));
    states.push((std::ptr::from_ref::<T>(&handle) as usize, size_of::<T>() as u64));
    handle
}

/// Where in its file an address of a region is.
fn offset_of(address: usize) -> u64 {
    let hexadecimal = |text: &str| usize::from_str_radix(text, 16).unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let place = maps.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let start = hexadecimal(start);
        (start..hexadecimal(end)).contains(&address).then(|| hexadecimal(fields.nth(1).unwrap()) + address - start)
    });
    place.unwrap() as u64
}

/// Messages of every kind, of which some came and went, some are taken and some came back.
fn fill<'r>(queue: ObjectId, peers: &[(&'r Region, PeerId)], pinned: &[(ObjectId, ObjectKind)]) {
    let attached = |(region, me): &(&'r Region, PeerId)| region.attach::<Queue>(queue, *me).unwrap();
    let queues: Vec<_> = peers.iter().map(attached).collect();
    for (number, length) in [8, 0, 112, 113, 700, 5000, 70_000, 8, 30, 8].into_iter().cycle().take(120).enumerate() {
        let (region, me) = peers[number % 3];
        let mut message = Message::new(region, me);
        let pins = if number % 4 == 1 { pinned } else { &[] };
        message.allocate(1, if number > 20 { length.min(200) } else { length }, pins).unwrap();
        let _ = queues[number % 3].put(&mut message, region, me, None);
    }
    for number in 0..50 {
        let (region, me) = peers[number % 3];
        let mut message = Message::new(region, me);
        let _ = queues[number % 3].get(&mut message, region, me, None);
        if number % 5 == 0 {
            let _ = queues[number % 3].task_done(region);
        }
    }
    std::mem::forget(queues);
}

fn fill_ordered<O: Order>(queue: &OrderedQueue<O>, (region, me): (&Region, PeerId), pinned: &[(ObjectId, ObjectKind)]) {
    for number in 0..100 {
        let mut message = Message::new(region, me);
        message.allocate(1, [8, 3, 80, 500, 20_000][number % 5], if number % 4 == 1 { pinned } else { &[] }).unwrap();
        let owner = Owner { peer: me, thread: 1 };
        let mut locked = queue.try_lock(region, owner).unwrap().unwrap();
        let keys = [key(number as i64 * 7 % 31)];
        let mut put = Put { messages: std::slice::from_mut(&mut message), keys: &keys, put: 0 };
        put.perform(&mut locked, |_, _| Ok::<_, ()>(false)).unwrap();
    }
}

fn key(number: i64) -> Key {
    let mut encoder = Encoder::default();
    encoder.integer(number);
    if number % 3 == 0 {
        encoder.other()
    } // which leaves it to the values
    encoder.finish()
}

/// A change of a file.
enum Change {
    Word(u64, u64),
    Bytes(u64, Vec<u8>),
    Length(u64),
}

/// What is changed in the input of that number.
fn changes(model: &Model, dice: &mut Dice) -> Vec<Change> {
    let value_at = |place: u64| model.used.binary_search_by_key(&place, |(at, _)| *at).map_or(0, |at| model.used[at].1);
    let mut changes = Vec::new();
    loop {
        let place = model.place(dice);
        match dice.under(40) {
            0 => {
                let most = if dice.one_in(4) { 70_000 } else { 400 };
                let bytes = 1 + dice.under(most);
                let filled = match dice.under(4) {
                    0 => vec![0; bytes as usize],
                    1 => vec![0xFF; bytes as usize],
                    2 => (0..bytes).map(|_| dice.roll() as u8).collect(),
                    _ => {
                        let word = dice.of(&model.used).1.to_ne_bytes();
                        word.into_iter().cycle().take(bytes as usize).collect()
                    }
                };
                changes.push(Change::Bytes(place.min(model.photograph.bytes - bytes), filled));
            }
            1 if dice.one_in(4) => {
                let bytes = model.photograph.bytes;
                changes.push(Change::Length(match dice.under(4) {
                    0 => dice.under(bytes),
                    1 => bytes + 1 + dice.under(1 << 30),
                    2 => dice.under(1 << 20),
                    _ => bytes - 1 - dice.under(1 << 24),
                }));
            }
            // The journal's log: something was committed, and may not have been done.
            2 | 3 => {
                const COUNT: u64 = 256 + WORD;
                let count = 1 + dice.under(40);
                changes.push(Change::Word(COUNT, count));
                for number in 0..count.min(32) {
                    let at = model.place(dice);
                    changes.push(Change::Word(COUNT + (1 + 2 * number) * WORD, at));
                    changes.push(Change::Word(COUNT + (2 + 2 * number) * WORD, model.value(dice, value_at(at))));
                }
            }
            _ => changes.push(Change::Word(place, model.value(dice, value_at(place)))),
        }
        if dice.one_in(4) {
            return changes;
        }
    }
}

/// Tries the input of that number.
fn try_input(model: &Model, number: u64) {
    let mut dice = Dice(number);
    let changes = changes(model, &mut dice);
    let length =
        changes.iter().rev().find_map(|change| if let Change::Length(bytes) = change { Some(*bytes) } else { None });
    let opened = model.photograph.open_changed(|file| {
        for change in &changes {
            match change {
                Change::Word(place, value) => file.write_all_at(&value.to_ne_bytes(), *place).unwrap(),
                Change::Bytes(place, bytes) => file.write_all_at(bytes, *place).unwrap(),
                Change::Length(_) => {}
            }
        }
        length.inspect(|length| file.set_len(*length).unwrap());
    });
    let Ok(region) = opened else { return };
    assert!(length.is_none_or(|length| length == model.photograph.bytes), "a file of another length was opened");
    if number % 2 == 0 {
        visit(&region, model, &mut dice);
        return;
    }
    let words = Words::of(&region, model);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mut dice = Dice(!number);
        let (words, is_done) = (&words, &is_done);
        scope.spawn(move || {
            for _ in 0..MOST_CHANGES {
                words.change(model, &mut dice);
                std::thread::yield_now();
                if is_done.load(Relaxed) {
                    break;
                }
            }
        });
        let result = catch_unwind(AssertUnwindSafe(|| visit(&region, model, &mut Dice(number))));
        is_done.store(true, Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// The words of a region, as somebody has them who knows nothing of what they mean.
struct Words {
    parts: Vec<(u64, *mut libc::c_void, usize)>,
}

// SAFETY: they are only used as atomics.
unsafe impl Sync for Words {}

impl Words {
    fn of(region: &Region, model: &Model) -> Words {
        use std::os::fd::AsRawFd;
        let map = |(offset, bytes): &(u64, u64)| {
            let (access, file) = (libc::PROT_READ | libc::PROT_WRITE, region.file().as_raw_fd());
            let length = *bytes as usize;
            // SAFETY: a new mapping.
            let start =
                unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, file, *offset as i64) };
            assert_ne!(start, libc::MAP_FAILED);
            (*offset, start, length)
        };
        Words { parts: model.parts.iter().map(map).collect() }
    }

    fn change(&self, model: &Model, dice: &mut Dice) {
        let place = model.place(dice);
        let Some((offset, start, _)) =
            self.parts.iter().find(|(offset, _, length)| (*offset..offset + *length as u64).contains(&place))
        else {
            return;
        };
        // SAFETY: it is inside of what is mapped, and aligned.
        let word = unsafe { &*start.cast::<AtomicU64>().add((place - offset) as usize / 8) };
        word.store(model.value(dice, word.load(Relaxed)), Relaxed);
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        for (_, start, length) in &self.parts {
            // SAFETY: nobody uses it any more.
            unsafe { libc::munmap(*start, *length) };
        }
    }
}

/// Somebody who comes to a region, and what it waits with.
struct Visitor<'r> {
    region: &'r Region,
    me: PeerId,
    owner: Owner,
    parker: Parker,
    waits: bool,
}

impl<'r> Visitor<'r> {
    /// Calls `wait` with a patience that is soon at its end, or at once.
    fn patient<T>(&self, wait: impl FnOnce(&Patience<'_>) -> T) -> T {
        let time = if self.waits { Duration::from_millis(1) } else { Duration::ZERO };
        let watch = Watch { region: self.region, me: self.me };
        wait(&Patience::new(Some(Instant::now() + time), Duration::ZERO, &self.parker).watching(&watch))
    }

    fn message(&self) -> Message<'r> {
        let mut message = Message::new(self.region, self.me);
        message.prepare(1 << 22);
        message
    }

    /// A message with references, if they lead anywhere.
    fn filled(&self, dice: &mut Dice, model: &Model) -> Message<'r> {
        let mut message = self.message();
        let length = *dice.of(&[0, 8, 8, 60, 112, 113, 1000, 100_000]);
        let (kind, id) = *dice.of(&model.objects);
        let pins = if dice.one_in(4) { vec![(id, kind); dice.under(5) as usize] } else { Vec::new() };
        if message.allocate(1, length, &pins).is_ok() {
            message.write(0, &[1; 112][..length.min(112)]);
        }
        message
    }
}

/// Reads a message as a binding does.
fn read(message: &mut Message<'_>) {
    let (start, length) = (message.as_ptr(), message.length());
    if !start.is_null() && length > 0 {
        for place in [0, length / 2, length - 1] {
            // SAFETY: the message has so many bytes.
            unsafe { start.add(place).read_volatile() };
        }
    }
    message.read(0, &mut [0; 8]);
    message.write(length.saturating_sub(1), &[1]);
    let _ = (message.kind(), message.first_word(), message.is_redelivered(), message.pins());
}

/// Does all there is to do.
fn visit(region: &Region, model: &Model, dice: &mut Dice) {
    let Some(me) = region.register() else { return };
    let owner = Owner { peer: me, thread: 2 };
    let visitor = Visitor { region, me, owner, parker: Parker::default(), waits: dice.one_in(20) };
    if !dice.one_in(4) {
        region.recover_dead(me);
    }
    for _ in 0..model.objects.len() {
        let (kind, id) = *dice.of(&model.objects);
        visit_object(&visitor, kind, id, model, dice);
    }
    for _ in 0..3 {
        let id = ObjectId { index: dice.roll() as u32 >> dice.under(32), generation: dice.under(4) as u32 };
        visit_object(&visitor, *dice.of(ObjectKind::ALL), id, model, dice);
    }
    visit_names(&visitor, dice);
    make_more(&visitor, model, dice);
    region.held_locks(me);
    region.look_for_deaths(me);
    region.recover_dead(me);
    region.segments();
    region.process(me);
    region.leave(me);
    region.statistics();
}

fn visit_object(visitor: &Visitor<'_>, kind: ObjectKind, id: ObjectId, model: &Model, dice: &mut Dice) {
    match kind {
        ObjectKind::Queue => with(visitor, id, |queue: &Queue| visit_queue(visitor, queue, model, dice)),
        ObjectKind::LifoQueue => with(visitor, id, |queue: &LifoQueue| visit_ordered(visitor, queue, model, dice)),
        ObjectKind::PriorityQueue => {
            with(visitor, id, |queue: &PriorityQueue| visit_ordered(visitor, queue, model, dice));
        }
        ObjectKind::Lock => with(visitor, id, |lock: &SharedLock| visit_lock(visitor, lock)),
        ObjectKind::RLock => with(visitor, id, |lock: &SharedRLock| visit_rlock(visitor, lock)),
        ObjectKind::Flag => with(visitor, id, |flag: &SharedFlag| visit_flag(visitor, flag)),
        ObjectKind::Semaphore => with(visitor, id, |semaphore: &SharedSemaphore| visit_semaphore(visitor, semaphore)),
        ObjectKind::Condition => with(visitor, id, |condition: &SharedCondition| visit_condition(visitor, condition)),
        ObjectKind::Barrier => with(visitor, id, |barrier: &SharedBarrier| visit_barrier(visitor, barrier, dice)),
        ObjectKind::Memory => {
            if let Ok(memory) = visitor.region.attach::<SharedMemory>(id, visitor.me) {
                visit_memory(visitor, &memory);
            }
        }
        ObjectKind::Bench => {}
    }
}

fn with<T: SharedState>(visitor: &Visitor<'_>, id: ObjectId, visit: impl FnOnce(&T)) {
    if let Ok(object) = visitor.region.attach::<T>(id, visitor.me) {
        visit(&object);
    }
}

fn visit_queue(visitor: &Visitor<'_>, queue: &Queue, model: &Model, dice: &mut Dice) {
    let Visitor { region, me, .. } = *visitor;
    let mut message = visitor.message();
    let _ = (queue.len(), queue.is_full(), queue.unfinished(), queue.maxsize(), queue.is_redelivered(region));
    for _ in 0..4 {
        if queue.peek(&mut message, region, me, None).is_ok() {
            read(&mut message);
        }
        let _ = queue.put(&mut visitor.filled(dice, model), region, me, None);
        if queue.get(&mut message, region, me, None).is_ok() {
            read(&mut message);
            let _ = queue.task_done(region);
        }
    }
    let mut many: Vec<_> = (0..20).map(|_| visitor.filled(dice, model)).collect();
    let mut put = 0;
    let _ = queue.put_many(&mut many, &mut put, region, me, None);
    visitor.patient(|patience| {
        let _ = queue.put(&mut visitor.filled(dice, model), region, me, Some(patience));
        let _ = queue.put_many(&mut many, &mut put, region, me, Some(patience));
    });
    {
        let mut batch = queue.batch(region, me);
        while batch.get(&mut message, None).is_ok() && !dice.one_in(60) {
            read(&mut message);
        }
    }
    visitor.patient(|patience| {
        let _ = queue.get(&mut message, region, me, Some(patience));
        let _ = queue.peek(&mut message, region, me, Some(patience));
        let _ = queue.settle(region, patience);
        let _ = queue.join(region, patience);
        let _ = wait_any(&[queue as &dyn Watchable], region.bell(), patience);
    });
    queue.set_maxsize(7, region);
    match dice.under(6) {
        0 => queue.shut_down(false, region, me),
        1 => queue.shut_down(true, region, me),
        2 => {
            let _ = visitor.patient(|patience| queue.clear(region, me, patience));
        }
        3 => {
            // It grows.
            queue.set_maxsize(0, region);
            let mut number = visitor.message();
            for _ in 0..300 {
                number.set_word(1, 1);
                let _ = queue.put(&mut number, region, me, None);
            }
        }
        _ => {}
    }
}

fn visit_ordered<O: Order>(visitor: &Visitor<'_>, queue: &OrderedQueue<O>, model: &Model, dice: &mut Dice) {
    let Visitor { region, owner, .. } = *visitor;
    let mut message = visitor.message();
    let keys = [key(3), key(5)];
    for _ in 0..10 {
        let mut messages = [visitor.filled(dice, model), visitor.filled(dice, model)];
        if let Ok(Some(mut locked)) = queue.try_lock(region, owner) {
            let mut put = Put { messages: &mut messages, keys: &keys, put: 0 };
            let mut answer = dice.one_in(2);
            let mut less = || {
                answer = !answer;
                Ok::<_, ()>(answer)
            };
            let _ = put.perform(&mut locked, |_, _| less());
            let is_got = Get { message: &mut message, quietly: false }.perform(&mut locked, |_, _| less()).is_ok();
            let _ = Peek { copy: &mut message }.perform(&mut locked, |_, _| less()).is_ok() || is_got;
            read(&mut message);
            let _ = Get { message: &mut message, quietly: false }.perform(&mut locked, |one, other| {
                let _ = (one.name == other.name, one.message.length(), other.message.as_ptr());
                less()
            });
        }
    }
    visitor.patient(|patience| {
        let mut messages = [visitor.filled(dice, model)];
        let mut put = Put { messages: &mut messages, keys: &keys, put: 0 };
        let _ = queue.wait_for_lock(&mut put, region, owner, patience).is_ok();
        let _ = queue.wait_for_change(&mut put, region, owner, patience).is_ok();
        let mut get = Get { message: &mut message, quietly: true };
        let _ = queue.wait_for_lock(&mut get, region, owner, patience).is_ok();
        let _ = queue.wait_for_change(&mut get, region, owner, patience).is_ok();
        let _ = queue.join(region, patience);
        let _ = wait_any(&[queue as &dyn Watchable], region.bell(), patience);
    });
    let _ = (queue.task_done(region), queue.len(), queue.unfinished());
    if dice.one_in(4)
        && let Ok(Some(locked)) = queue.try_lock(region, owner)
    {
        let _ = if dice.one_in(2) { locked.clear() } else { locked.shut_down(dice.one_in(2)) };
    }
}

fn visit_lock(visitor: &Visitor<'_>, lock: &Lock) {
    let Visitor { region, owner, .. } = *visitor;
    let _ = (lock.try_acquire(owner), lock.owner(), lock.is_locked());
    let _ = visitor.patient(|patience| lock.acquire(owner, patience));
    let _ = visitor.patient(|patience| wait_any(&[lock as &dyn Watchable], region.bell(), patience));
    let _ = (lock.release(region.bell()), lock.release(region.bell()));
}

fn visit_rlock(visitor: &Visitor<'_>, lock: &RLock) {
    let Visitor { region, owner, .. } = *visitor;
    let _ = (lock.try_acquire(owner), lock.try_acquire(owner), lock.count());
    if !lock.is_owned(owner) {
        let _ = visitor.patient(|patience| lock.restore(owner, 2, patience));
    }
    let _ = visitor.patient(|patience| wait_any(&[&lock.for_owner(owner)], region.bell(), patience));
    let _ = (lock.release(owner, region.bell()), lock.release_save(owner, region.bell()));
}

fn visit_flag(visitor: &Visitor<'_>, flag: &Flag) {
    let bell = visitor.region.bell();
    let _ = visitor.patient(|patience| flag.wait(flag.now(), bell, patience));
    let _ = visitor.patient(|patience| wait_any(&[&flag.from_now()], bell, patience));
    flag.set(bell);
    flag.clear();
}

fn visit_semaphore(visitor: &Visitor<'_>, semaphore: &Semaphore) {
    let Visitor { region, me, .. } = *visitor;
    for count in [1, 3, 100] {
        semaphore.try_acquire(me);
        let _ = visitor.patient(|patience| semaphore.acquire(me, region.bell(), patience));
        let _ = (semaphore.release(me, count, region.bell()), semaphore.value(), semaphore.bound());
    }
    let _ = visitor.patient(|patience| wait_any(&[semaphore as &dyn Watchable], region.bell(), patience));
}

fn visit_condition(visitor: &Visitor<'_>, condition: &Condition) {
    let Visitor { region, owner, .. } = *visitor;
    condition.notify(region, 2);
    if let Ok(sitting) = condition.sit(region, owner) {
        condition.notify(region, u32::MAX);
        let _ = visitor.patient(|patience| sitting.wait(patience));
        if let Some(called) = condition.leave(sitting) {
            condition.pass_on(region, called);
        }
    }
    condition.notify_all(region);
    condition.waiters().count(region);
}

fn visit_barrier(visitor: &Visitor<'_>, barrier: &Barrier, dice: &mut Dice) {
    let Visitor { region, owner, .. } = *visitor;
    for _ in 0..4 {
        match visitor.patient(|patience| barrier.arrive(region, owner, region.bell(), patience)) {
            Ok(Arrival::Waiting(_, sitting)) => {
                if visitor.patient(|patience| sitting.wait(patience)).is_err() {
                    barrier.time_out(sitting.ticket(), region, region.bell());
                    barrier.abandon(sitting.ticket(), region, region.bell());
                }
                sitting.leave();
            }
            Ok(Arrival::Last(last)) if dice.one_in(3) => last.fail(region, region.bell()),
            Ok(Arrival::Last(last)) => drop(last.release(region, region.bell())),
            Err(_) if dice.one_in(2) => barrier.reset(region, region.bell()),
            Err(_) => barrier.abort(region, region.bell()),
        }
        let _ = (barrier.arrived(), barrier.parties(), barrier.is_broken(), barrier.time_limit());
    }
    barrier.waiters().count(region);
}

fn visit_memory(visitor: &Visitor<'_>, memory: &Handle<'_, SharedMemory>) {
    let (start, length) = memory.bytes();
    if length > 0 {
        // SAFETY: the memory has so many bytes.
        unsafe { (start.read_volatile(), start.add(length - 1).read_volatile()) };
    }
    for place in [0, 1, 511, memory.elements().wrapping_sub(1), usize::MAX] {
        if let Some(element) = memory.element(place) {
            element.store(element.load().wrapping_add(1));
            let _ = element.update(|bits| if bits == 0 { Err(()) } else { Ok(bits - 1) });
        }
        let changes = memory.changes(place);
        changes.notify(1);
        let _ = visitor.patient(|patience| changes.wait_until(patience, || None::<()>));
    }
}

fn visit_names(visitor: &Visitor<'_>, dice: &mut Dice) {
    let Visitor { region, me, .. } = *visitor;
    region.object_names(me);
    region.find_name(me, 2, "gate");
    region.open_memory(me, "cells");
    region.open_named::<PriorityQueue>(me, 1, "inbox");
    region.open_named::<SharedLock>(me, 2, "door");
    region.open_named::<SharedLock>(me, 2, "gate");
    region.open_named::<Queue>(me, 3, "nothing");
    region.unlink_memory(me, "cells");
    let _ =
        region.create_named_memory(me, "more", Format { meaning: 0, width: 1 }, dice.under(10_000) as usize).is_ok();
    region.take_name(me, 2, "gate");
}

/// Makes new objects: memory is taken, and more of it.
fn make_more(visitor: &Visitor<'_>, model: &Model, dice: &mut Dice) {
    let Visitor { region, me, .. } = *visitor;
    if let Ok(queue) = region.create_queue(me, 0) {
        visit_queue(visitor, &queue, model, dice);
        let mut large = visitor.message();
        for length in [70_000, 1 << 20, 3 << 20] {
            if large.allocate(1, length, &[(queue.id(), ObjectKind::Queue)]).is_ok() {
                read(&mut large);
                let _ = queue.put(&mut large, region, me, None);
            }
        }
    }
    if let Ok(queue) = region.create_queue(me, 3) {
        queue.set_redelivers(true, region, me);
        visit_queue(visitor, &queue, model, dice);
    }
    if let Ok(queue) = region.create_ordered_queue::<Priority>(me, 0) {
        visit_ordered(visitor, &queue, model, dice);
    }
    if let Ok(condition) = region.create_shared::<Condition>(me, |_| {}) {
        visit_condition(visitor, &condition);
    }
    if let Ok(memory) = region.create_memory(me, Format { meaning: 0, width: 4 }, 1000) {
        visit_memory(visitor, &memory);
    }
    let _ = region.create_shared::<Lock>(me, |_| {}).is_ok();
}

/// What a child tells its parent, in memory that both have.
struct Told {
    /// The number of the input that is being tried.
    number: AtomicU64,
    is_done: AtomicBool,
}

impl Told {
    fn new() -> &'static Told {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, which stays; all zero bytes are valid.
        unsafe {
            let start = libc::mmap(std::ptr::null_mut(), size_of::<Told>(), access, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            &*start.cast()
        }
    }
}

/// A child of this process that tries inputs.
struct Child {
    process: libc::pid_t,
    told: &'static Told,
    end: u64,
}

impl Child {
    fn start(model: &Model, numbers: Range<u64>, told: &'static Told) -> Child {
        told.is_done.store(false, Relaxed);
        // SAFETY: the child has one thread, and uses what that made or makes.
        let process = unsafe { libc::fork() };
        assert!(process >= 0, "{}", std::io::Error::last_os_error());
        let end = numbers.end;
        if process == 0 {
            for number in numbers {
                told.number.store(number, Relaxed);
                limit_time();
                if catch_unwind(AssertUnwindSafe(|| try_input(model, number))).is_err() {
                    // SAFETY: the process ends, without a word to anybody.
                    unsafe { libc::_exit(1) };
                }
            }
            told.is_done.store(true, Relaxed);
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        Child { process, told, end }
    }

    /// The number of the input that has ended it, and how, if one has.
    fn failure(&self, status: i32) -> Option<(u64, String)> {
        let how = match libc::WTERMSIG(status) {
            _ if self.told.is_done.load(Relaxed) => return None,
            _ if libc::WIFEXITED(status) => "a panic".to_owned(),
            libc::SIGPROF => format!("it works on for more than {MOST_WORK} s"),
            libc::SIGALRM => format!("it sleeps on for more than {MOST_TIME} s"),
            signal => format!("signal {signal}"),
        };
        Some((self.told.number.load(Relaxed), how))
    }
}

/// Tries inputs, in as many children as the machine has processors; the numbers of those that failed, and how.
fn try_all(model: &Model, mut batches: impl Iterator<Item = Range<u64>>) -> Vec<(u64, String)> {
    let mut idle: Vec<_> =
        (0..std::thread::available_parallelism().map_or(1, usize::from)).map(|_| Told::new()).collect();
    let (mut running, mut rest, mut failed) = (Vec::<Child>::new(), Vec::new(), Vec::new());
    loop {
        while let Some(told) = idle.pop() {
            let Some(batch) = rest.pop().or_else(|| batches.next().filter(|_| failed.len() < MOST_FAILURES)) else {
                idle.push(told);
                break;
            };
            running.push(Child::start(model, batch, told));
        }
        if running.is_empty() {
            return failed;
        }
        let mut status = 0;
        // SAFETY: the kernel fills the live number.
        let ended = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        let Some(place) = running.iter().position(|child| child.process == ended) else { continue };
        let child = running.swap_remove(place);
        idle.push(child.told);
        if let Some(failure) = child.failure(status) {
            eprintln!("input {}: {} (MULTIGIL_FIRST_INPUT={0} MULTIGIL_INPUTS=1 repeats it)", failure.0, failure.1);
            rest.extend(Some(failure.0 + 1..child.end).filter(|rest| !rest.is_empty()));
            failed.push(failure);
        } else if child.end % PROGRESS == 0 {
            eprintln!("up to input {}", child.end);
        }
    }
}

/// Lets this process be killed unless it calls this again in time.
fn limit_time() {
    for (timer, seconds) in [(libc::ITIMER_PROF, MOST_WORK), (libc::ITIMER_REAL, MOST_TIME)] {
        let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
        let limit = libc::itimerval { it_interval: never, it_value: libc::timeval { tv_sec: seconds, tv_usec: 0 } };
        // SAFETY: the structure is alive.
        assert_eq!(unsafe { libc::setitimer(timer as _, &raw const limit, std::ptr::null_mut()) }, 0);
    }
}

#[test]
fn nothing_that_is_written_over_does_harm() {
    let asked = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let corpus = include_str!("overwritten.txt").lines().filter_map(|line| line.parse().ok());
    let first = asked("MULTIGIL_FIRST_INPUT").unwrap_or(0);
    let end = first + asked("MULTIGIL_INPUTS").unwrap_or(SMOKE);
    let model = Model::new();
    let known = corpus.map(|number: u64| number..number + 1);
    let others = (first..end).step_by(BATCH as usize).map(|start| start..end.min(start + BATCH));
    let failed = try_all(&model, known.chain(others));
    assert!(failed.is_empty(), "{failed:#?}");
}
