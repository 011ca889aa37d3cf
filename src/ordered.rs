//! Queues that keep an order: last in, first out, or the least first.
//!
//! ```text
//!   a table    entries 0 … 63 │ 64 … 191 │ 192 … 447 │ …   each block twice as large as the one before
//!   LIFO       put and get at its end
//!   priority   a binary heap, by the very comparisons that Python's `heapq` makes, so that equal messages come out in
//!              the order in which they do there
//! ```
//!
//! A lock that names its owner guards the table. Messages are compared by their keys ([`key`](crate::key)); what keys
//! leave undecided is given to the binding, which compares the values, with the lock held. All comparisons of a `put`
//! or `get` come before its first change. So when one fails nothing has happened, and what waits for the lock meanwhile
//! waits as for any other lock.
//!
//! Who waits acts inside the wait as far as keys decide. Comparing values takes what a wait gives away (in Python, the
//! GIL), so then the wait ends: with the lock held, or with the right to the next attempt ([`Turn`]).
//!
//! # Whoever holds the lock may be killed
//! What is going to change is written into a journal before, and a last word, the commit, makes it so: nothing has
//! happened until then, and everything will from then on. It is carried out in steps that may be repeated, as a journal
//! that is left behind is carried out from the step on that it names ([`OrderedQueue::recover`]).
//!
//! ```text
//!   put   the message's block is the producer's → commit → it is the queue's → entries move down → the message moves in
//!   get   it is the queue's → commit → it is the consumer's → entries move up → the last one moves in
//!   both  → count → the journal is empty → the lock is free
//! ```
//!
//! A block of the table is its taker's until the table names it. One that the table names and that still, or again, is
//! the dead holder's becomes the table's.
#![forbid(unsafe_code)]

use core::cmp::Ordering::Less;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use crossbeam_utils::CachePadded;

use crate::control::{AnyQueue, Control};
use crate::error::{AcquireError, GetError, InUse, OrderedError, OutOfMemory, OwnerDied, PutError, WaitError};
use crate::event::{Attempt, Event, Patience, Turn, Watchable};
use crate::fault::fault;
use crate::key::{Key, compare};
use crate::layout::{Entry, INLINE_BYTES, Meta, ObjectHeader, ObjectKind, PeerId};
use crate::lock::{Owner, RLock};
use crate::object::{Message, Region};
use crate::sync::{AtomicU32, AtomicU64, Ordering, spin_loop};

/// Entries of the first block of a table.
const FIRST_ENTRIES: u64 = 64;
/// The most blocks that a table has.
const BLOCKS: usize = 32;
/// The most messages: as many entries as there can be.
const MAX_MESSAGES: u64 = FIRST_ENTRIES * ((1 << BLOCKS) - 1);

/// How often a thread that keeps its GIL looks whether the lock is free: for as long as a `put` or `get` takes that
/// compares keys only.
const LOOKS: u32 = 50;

/// The order in which messages are got.
pub trait Order: fmt::Debug + Default + 'static {
    /// What such a queue is in its header.
    const KIND: ObjectKind;
    /// Whether the least message comes first; otherwise the last one does.
    const BY_PRIORITY: bool;
}

/// Last in, first out.
#[derive(Debug, Default)]
pub struct Lifo;

impl Order for Lifo {
    const KIND: ObjectKind = ObjectKind::LifoQueue;
    const BY_PRIORITY: bool = false;
}

/// The least first.
#[derive(Debug, Default)]
pub struct Priority;

impl Order for Priority {
    const KIND: ObjectKind = ObjectKind::PriorityQueue;
    const BY_PRIORITY: bool = true;
}

/// A queue of which the last message comes first.
pub type LifoQueue = OrderedQueue<Lifo>;
/// A queue of which the least message comes first.
pub type PriorityQueue = OrderedQueue<Priority>;

/// A queue's state, as it lies in a region. All zero bytes are a valid, empty one.
#[repr(C)]
#[derive(Debug, Default)]
pub struct OrderedQueue<O> {
    control: Control,
    guarded: CachePadded<Guarded>,
    /// The index of each block of the table, plus one; 0 if there is none. Whoever holds the lock is alone with them.
    blocks: CachePadded<[AtomicU32; BLOCKS]>,
    order: PhantomData<O>,
}

/// The lock, and what changes only while it is held, but may be read at any time.
#[repr(C)]
#[derive(Debug, Default)]
struct Guarded {
    lock: RLock,
    /// How many messages there are.
    count: AtomicU64,
    /// How many messages were ever put.
    put: AtomicU64,
    journal: Journal,
    /// The journal's: the message that is put or got, unless its entry is the table's last one, which no other one is
    /// copied over.
    message: Entry,
}

/// What is being done to the table. All zero bytes are a valid, empty one.
#[repr(C)]
#[derive(Debug, Default)]
struct Journal {
    /// What is done, how far it is, and to where; 0 if nothing is. See [`Change::word`].
    word: AtomicU64,
    /// What [`Guarded::count`] becomes,
    count: AtomicU64,
    /// and [`Guarded::put`].
    put: AtomicU64,
}

/// What is done to the table, as the journal says.
#[derive(Clone, Copy, Debug)]
struct Change {
    kind: ChangeKind,
    /// What tells whether a message that is thrown away has been counted; see [`Control::throw_away`].
    mark: bool,
    /// Where the message goes, or where the last one goes once it is gone; the last place itself if no other one moves.
    place: u64,
    /// How many messages there will be,
    count: u64,
    /// and will have been put.
    put: u64,
}

/// A message comes or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChangeKind {
    Put = 1,
    Get = 2,
    ThrowAway = 3,
}

/// In the journal's word, above a [`ChangeKind`]: the mark.
const MARK: u64 = 1 << 2;
/// How many entries have moved,
const STEP_SHIFT: u32 = 3;
const MAX_STEPS: u64 = 1 << (PLACE_SHIFT - STEP_SHIFT);
/// and the place.
const PLACE_SHIFT: u32 = 16;

impl Change {
    /// As it is in the journal's word, when so many entries have moved.
    #[inline(always)]
    fn word(&self, step: u64) -> u64 {
        self.place << PLACE_SHIFT | step << STEP_SHIFT | if self.mark { MARK } else { 0 } | self.kind as u64
    }

    /// The table's last place, before a message goes or after one has come.
    #[inline(always)]
    fn last(&self) -> u64 {
        if self.kind == ChangeKind::Put { self.count.wrapping_sub(1) } else { self.count }
    }
}

impl Journal {
    /// What is being done, and how many entries have moved, if anything is that can be.
    fn read(&self) -> Option<(Change, u64)> {
        // Acquire: what was written before is seen.
        let word = self.word.load(Ordering::Acquire);
        let kind = match word % MARK {
            1 => ChangeKind::Put,
            2 => ChangeKind::Get,
            3 => ChangeKind::ThrowAway,
            _ => return None,
        };
        let (count, put) = (self.count.load(Ordering::Relaxed), self.put.load(Ordering::Relaxed));
        let change = Change { kind, mark: word & MARK != 0, place: word >> PLACE_SHIFT, count, put };
        (change.last() < MAX_MESSAGES).then_some((change, word >> STEP_SHIFT & (MAX_STEPS - 1)))
    }

    /// Writes down what will be done. Whoever finds it from now on carries it out.
    #[inline(always)]
    fn commit(&self, change: &Change) {
        self.count.store(change.count, Ordering::Relaxed); // Relaxed, both: the word publishes them
        self.put.store(change.put, Ordering::Relaxed);
        fault!(OrderedWrittenDown);
        self.note(change, 0);
    }

    /// Says that so many entries have moved.
    #[inline(always)]
    fn note(&self, change: &Change, step: u64) {
        // Release: all that was done before stays before, for whoever reads this after we were killed.
        self.word.store(change.word(step), Ordering::Release);
        fault!(OrderedNoted);
    }

    /// Says that nothing is being done any more.
    #[inline(always)]
    fn clear(&self) {
        self.word.store(0, Ordering::Release); // Release, as in `note`
        fault!(OrderedDone);
    }
}

impl<O> AsRef<ObjectHeader> for OrderedQueue<O> {
    fn as_ref(&self) -> &ObjectHeader {
        self.control.as_ref()
    }
}

/// The block of an entry, one of the [`MAX_MESSAGES`], and its place there.
fn locate(entry: u64) -> (usize, usize) {
    let shifted = entry + FIRST_ENTRIES;
    let block = shifted.ilog2() - FIRST_ENTRIES.ilog2();
    (block as usize, (shifted - (FIRST_ENTRIES << block)) as usize)
}

impl<O: Order> OrderedQueue<O> {
    pub(crate) fn initialize(&self, maxsize: i64) {
        self.control.initialize(maxsize);
    }

    /// Takes the lock if it is free, or will be in a moment.
    ///
    /// # Errors
    /// [`InUse`].
    #[inline]
    pub fn try_lock<'a>(&'a self, region: &'a Region, me: Owner) -> Result<Option<Locked<'a, O>>, InUse> {
        let lock = &self.guarded.lock;
        if lock.is_owned(me) {
            return Err(InUse);
        }
        // One who died here leaves nothing to tell: the next one takes the lock.
        let take = || lock.try_restore(me, 1).or_else(|_: OwnerDied| lock.try_restore(me, 1)).unwrap_or(false);
        if !take() {
            let is_taken = || {
                spin_loop();
                take()
            };
            if !(0..LOOKS).any(|_| is_taken()) {
                return Ok(None);
            }
        }
        Ok(Some(Locked { queue: self, region, me, has_put: false, has_got: false }))
    }

    /// Takes the lock, which `me` does not hold, waiting for it.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn lock<'a>(
        &'a self,
        region: &'a Region,
        me: Owner,
        patience: &Patience<'_>,
    ) -> Result<Locked<'a, O>, WaitError> {
        while let Err(error) = self.guarded.lock.restore(me, 1, patience) {
            match error {
                AcquireError::TimedOut => return Err(WaitError::TimedOut),
                AcquireError::Interrupted => return Err(WaitError::Interrupted),
                AcquireError::OwnerDied(_) => {} // as in `try_lock`
            }
        }
        Ok(Locked { queue: self, region, me, has_put: false, has_got: false })
    }

    /// The same, and does what keys decide.
    ///
    /// # Errors
    /// [`WaitError`]; nothing was done then.
    pub fn wait_for_lock<'a, P: Operation<O>>(
        &'a self,
        operation: &mut P,
        region: &'a Region,
        me: Owner,
        patience: &Patience<'_>,
    ) -> Result<Outcome<P::Error, Locked<'a, O>>, WaitError> {
        let mut locked = self.lock(region, me, patience)?;
        Ok(match locked.try_perform(operation) {
            Some(result) => Outcome::Performed(result),
            None => Outcome::Undecided(locked),
        })
    }

    /// Waits until the operation is worth another attempt, and does what keys decide.
    ///
    /// # Errors
    /// [`WaitError`]; nothing was done then.
    pub fn wait_for_change<'a, P: Operation<O>>(
        &'a self,
        operation: &mut P,
        region: &'a Region,
        me: Owner,
        patience: &Patience<'_>,
    ) -> Result<Outcome<P::Error, Turn<'a, impl Fn() -> bool + use<'a, O, P>>>, WaitError> {
        let attempt = || {
            if !P::is_worth_it(self) {
                return Attempt::NotYet;
            }
            // Without waiting for the lock, which somebody may hold for long who compares values.
            let Ok(Some(mut locked)) = self.try_lock(region, me) else { return Attempt::Leave };
            match locked.try_perform(operation) {
                Some(Err(error)) if error == P::NOT_YET => Attempt::NotYet,
                Some(result) => Attempt::Done(result),
                None => Attempt::Leave,
            }
        };
        let worth_it = || P::is_worth_it(self);
        let result = P::event(self).wait_for(region.bell(), patience, attempt, worth_it)?;
        Ok(result.map_or_else(Outcome::Undecided, Outcome::Performed))
    }

    /// For gets of one thread that tell nobody of the free places: then producers are told of all of them at once.
    pub fn places<'a>(&'a self, region: &'a Region) -> Places<'a> {
        Places { not_full: &self.control.not_full, region, untold: false }
    }

    /// Gives all messages and the table back, each message to `each` before. The caller is the only one who knows the
    /// queue.
    pub(crate) fn destroy(&self, region: &Region, me: PeerId, mut each: impl FnMut(&mut Message<'_>)) {
        // Nobody else wants the lock, but it says who went on with this should the caller be killed.
        let take = || self.guarded.lock.try_restore(Owner { peer: me, thread: 0 }, 1);
        let _ = take().or_else(|_: OwnerDied| take()); // twice, as in `try_lock`
        let mut message = Message::new(region, me);
        while let Ok(Some((meta, payload))) = self.take_last(ChangeKind::Get, region, me) {
            message.take_entry(meta, payload);
            each(&mut message);
        }
        for block in &*self.blocks {
            if let Some(index) = Self::take_block(block, region, me) {
                region.heap().give_back(me, index);
            }
        }
    }

    /// Puts right what a participant left that was killed, and lets everybody look who waits. May itself end anywhere, and
    /// begin again.
    ///
    /// What the dead has got, and what it had not put yet, is its own still.
    pub fn recover(&self, region: &Region, dead: PeerId) {
        let lock = &self.guarded.lock;
        if lock.lock().owner().is_some_and(|owner| owner.peer == dead) {
            self.complete(region, dead);
            fault!(OrderedRecovered);
        }
        lock.recover(dead); // wakes also if another one died after it had made the lock free
        self.control.recover();
    }

    /// Does what the holder of the lock would have done, and left undone when it was killed.
    fn complete(&self, region: &Region, dead: PeerId) {
        for block in &*self.blocks {
            let index = block.load(Ordering::Acquire).wrapping_sub(1);
            if region.heap().belongs_to(index, Some(dead)) {
                region.heap().hand_over(index, None);
                fault!(OrderedRoomKept);
            }
        }
        if let Some((change, step)) = self.guarded.journal.read() {
            let table = Table::new(self, region, change.last());
            // A table without such entries is one that somebody wrote over: nothing can be done.
            let _ = self.carry_out(&change, step, region, dead, |entry| table.entry(entry));
        }
        self.guarded.journal.clear();
        if self.control.is_shut_down_immediately() {
            while let Ok(Some(_)) = self.take_last(ChangeKind::ThrowAway, region, dead) {
                let _ = self.leave_room(region, dead);
            }
        }
    }

    // What follows is for whoever holds the lock.

    /// How many messages there are.
    #[inline]
    fn count(&self) -> Result<u64, Corrupt> {
        let count = self.guarded.count.load(Ordering::Relaxed); // Relaxed: only ours
        if count <= MAX_MESSAGES { Ok(count) } else { Err(Corrupt) }
    }

    /// An entry, one of the [`MAX_MESSAGES`].
    #[inline]
    fn entry<'a>(&self, region: &'a Region, entry: u64) -> Result<&'a Entry, Corrupt> {
        let (block, place) = locate(entry);
        let block = self.blocks.get(block).ok_or(Corrupt)?;
        region.table(block.load(Ordering::Relaxed).wrapping_sub(1)).get(place).ok_or(Corrupt)
    }

    /// Makes room for one more entry than there are, so many.
    #[inline]
    fn make_room(&self, count: u64, region: &Region, me: PeerId) -> Result<(), OutOfMemory> {
        let (number, _) = locate(count);
        let Some(block) = self.blocks.get(number) else {
            return Err(OutOfMemory { requested: size_of::<Entry>() as u64, available: 0 });
        };
        if block.load(Ordering::Relaxed) == 0 {
            let index = region.heap().take(me, size_of::<Entry>() * (FIRST_ENTRIES << number) as usize)?;
            fault!(OrderedRoomTaken);
            block.store(index + 1, Ordering::Release); // Release: before it is handed over
            fault!(OrderedRoomNamed);
            region.heap().hand_over(index, None);
            fault!(OrderedRoomMade);
        }
        Ok(())
    }

    /// Gives the last block back if it is not needed any more.
    #[inline]
    fn give_room_back(&self, region: &Region, me: PeerId) {
        if let Some(index) = self.leave_room(region, me) {
            region.heap().give_back(me, index);
            region.heap().trim(me); // messages had piled up, whose memory is free now
        }
    }

    /// Takes the last block once the one before is half empty: not at every put and get around its beginning.
    #[inline]
    fn leave_room(&self, region: &Region, owner: PeerId) -> Option<u32> {
        let (number, place) = locate(self.len().min(MAX_MESSAGES));
        if place as u64 > FIRST_ENTRIES << number >> 1 {
            return None;
        }
        Self::take_block(self.blocks.get(number + 1)?, region, owner)
    }

    /// Takes a block of the table, if there is one: it is `owner`'s from then on.
    #[inline]
    fn take_block(block: &AtomicU32, region: &Region, owner: PeerId) -> Option<u32> {
        let index = block.load(Ordering::Relaxed).checked_sub(1)?;
        let is_the_tables = region.heap().belongs_to(index, None);
        if is_the_tables {
            region.heap().hand_over(index, Some(owner));
            fault!(OrderedRoomLeft);
        }
        block.store(0, Ordering::Release); // Release: after it was handed over
        fault!(OrderedRoomForgotten);
        is_the_tables.then_some(index)
    }

    /// Takes the last entry's message, if there is one: its block is `owner`'s from then on.
    fn take_last(&self, kind: ChangeKind, region: &Region, owner: PeerId) -> Result<Option<(u64, u64)>, Corrupt> {
        let Some(last) = self.count()?.checked_sub(1) else { return Ok(None) };
        let entry = self.entry(region, last)?;
        let message = check(region, entry)?;
        let change = Change { kind, mark: self.control.next_mark(), place: last, count: last, put: self.put_in_all() };
        self.guarded.journal.commit(&change);
        self.carry_out(&change, 0, region, owner, |_| Ok(entry))?;
        Ok(Some(message))
    }

    /// Does what the journal says, of which so many steps are done, for whoever has written it there.
    ///
    /// The hole that a message leaves, or comes into, moves along the heap; each step is noted before the next one writes
    /// over the entry that this one copied.
    #[inline(always)]
    fn carry_out<'a>(
        &self,
        change: &Change,
        steps_done: u64,
        region: &Region,
        owner: PeerId,
        entry: impl Fn(u64) -> Result<&'a Entry, Corrupt>,
    ) -> Result<(), Corrupt> {
        let Guarded { journal, count, put, message, .. } = &*self.guarded;
        let (is_put, last, place) = (change.kind == ChangeKind::Put, change.last(), change.place);
        let message = if place == last { entry(last)? } else { message };
        if let Some(block) = block(message) {
            region.heap().hand_over(block, if is_put { None } else { Some(owner) });
            fault!(OrderedHandedOver);
        }
        if place != last {
            let mut hole = entry(if is_put { last } else { 0 })?;
            let mut step = 0;
            let mut move_to = |next| {
                let next = entry(next)?;
                step += 1;
                if step > steps_done {
                    hole.take(next);
                    fault!(OrderedMoved);
                    journal.note(change, step);
                }
                hole = next;
                Ok(())
            };
            if is_put {
                way_up(last, place).try_for_each(&mut move_to)?;
            } else {
                way_down(place).try_for_each(&mut move_to)?;
            }
            hole.take(if is_put { message } else { entry(last)? });
            fault!(OrderedMovedIn);
        }
        put.store(change.put, Ordering::Release); // Release, both: each is there before the next step
        fault!(OrderedPutCounted);
        count.store(change.count, Ordering::Release);
        fault!(OrderedCounted);
        if change.kind == ChangeKind::ThrowAway {
            self.control.throw_away(change.mark, change.put, region.bell());
            fault!(OrderedThrownAway);
        }
        journal.clear();
        Ok(())
    }
}

/// The region holds something that no version of multigil wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Corrupt;

impl From<Corrupt> for PutError {
    fn from(_: Corrupt) -> PutError {
        PutError::Corrupt
    }
}

impl From<Corrupt> for GetError {
    fn from(_: Corrupt) -> GetError {
        GetError::Corrupt
    }
}

impl<R: From<Corrupt>, C> From<Corrupt> for OrderedError<R, C> {
    fn from(corrupt: Corrupt) -> OrderedError<R, C> {
        OrderedError::Refused(corrupt.into())
    }
}

/// The index of the block that an entry's message is in, if it is in one.
#[inline]
fn block(entry: &Entry) -> Option<u32> {
    Meta::unpack(entry.meta.read()).is_block_of_entry().then(|| entry.payload.read() as u32)
}

/// The meta and the payload of an entry of a queue, if they can be.
#[inline]
fn check(region: &Region, entry: &Entry) -> Result<(u64, u64), Corrupt> {
    let (meta, payload) = (entry.meta.read(), entry.payload.read());
    let is_whole = || {
        let index = payload as u32;
        let bytes = Meta::unpack(meta).room().max(INLINE_BYTES as u64);
        let is_in_block = region.heap().memory(index).is_some_and(|(_, size)| size as u64 >= bytes);
        is_in_block && region.heap().belongs_to(index, None)
    };
    if !Meta::unpack(meta).is_block_of_entry() || is_whole() { Ok((meta, payload)) } else { Err(Corrupt) }
}

/// The blocks of a queue's table up to an entry: looking one up for every comparison would cost more than comparing.
struct Table<'a>([&'a [Entry]; BLOCKS]);

impl<'a> Table<'a> {
    #[inline]
    fn new<O: Order>(queue: &OrderedQueue<O>, region: &'a Region, last: u64) -> Table<'a> {
        let mut table: [&[Entry]; BLOCKS] = [&[]; BLOCKS];
        for (entries, block) in table.iter_mut().zip(queue.blocks.iter()).take(locate(last).0 + 1) {
            *entries = region.table(block.load(Ordering::Relaxed).wrapping_sub(1));
        }
        Table(table)
    }

    /// An entry, one of the [`MAX_MESSAGES`].
    #[inline]
    fn entry(&self, entry: u64) -> Result<&'a Entry, Corrupt> {
        let (block, place) = locate(entry);
        self.0.get(block).and_then(|entries| entries.get(place)).ok_or(Corrupt)
    }
}

impl Entry {
    /// Becomes what another one is.
    #[inline]
    fn take(&self, other: &Entry) {
        self.key.iter().zip(&other.key).for_each(|(to, from)| to.write(from.read()));
        fault!(OrderedHalfMoved);
        self.meta.write(other.meta.read());
        self.payload.write(other.payload.read());
    }
}

/// A message that a key leaves undecided.
#[derive(Debug)]
pub struct Contender<'a, 'r> {
    /// Which it is.
    pub name: Name,
    /// The message, for a look.
    pub message: &'a Message<'r>,
}

/// What a message is called in comparisons while the lock is held. Equal names are those of equal messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// One that is being put, by its place among those.
    Put(usize),
    /// One that is in the queue.
    Queued([u64; 2]),
}

/// What is done with a queue whose lock is held.
pub trait Operation<O: Order> {
    /// Why it was not done.
    type Error: PartialEq;
    /// The error that waiting helps against.
    const NOT_YET: Self::Error;

    /// Does it, or what is left of it. `less` says of two messages, which their keys do not order, whether the first is
    /// less.
    ///
    /// # Errors
    /// [`OrderedError`].
    fn perform<C>(
        &mut self,
        locked: &mut Locked<'_, O>,
        less: impl FnMut(Contender<'_, '_>, Contender<'_, '_>) -> Result<bool, C>,
    ) -> Result<(), OrderedError<Self::Error, C>>;

    /// What happens when it may be done.
    fn event(queue: &OrderedQueue<O>) -> &Event;

    /// Whether the queue seems to be one that does not say [`Operation::NOT_YET`].
    fn is_worth_it(queue: &OrderedQueue<O>) -> bool;
}

/// Puts messages in their order. Each belongs to the queue from then on.
#[derive(Debug)]
pub struct Put<'m, 'r> {
    /// The messages.
    pub messages: &'m mut [Message<'r>],
    /// Their keys, if the queue keeps its messages by priority.
    pub keys: &'m [Key],
    /// How many were put. Those from there on still belong to the caller.
    pub put: usize,
}

impl<O: Order> Operation<O> for Put<'_, '_> {
    type Error = PutError;
    const NOT_YET: PutError = PutError::Full;

    #[inline]
    fn perform<C>(
        &mut self,
        locked: &mut Locked<'_, O>,
        mut less: impl FnMut(Contender<'_, '_>, Contender<'_, '_>) -> Result<bool, C>,
    ) -> Result<(), OrderedError<PutError, C>> {
        while let Some(message) = self.messages.get_mut(self.put) {
            let key = self.keys.get(self.put).copied().unwrap_or_default();
            locked.put(message, self.put, &key, &mut less)?;
            self.put += 1;
        }
        Ok(())
    }

    fn event(queue: &OrderedQueue<O>) -> &Event {
        &queue.control.not_full
    }

    fn is_worth_it(queue: &OrderedQueue<O>) -> bool {
        !queue.is_full() || queue.is_shut_down()
    }
}

/// Takes the message that is next, if the one to become it is prepared for its size ([`Message::prepare`]).
#[derive(Debug)]
pub struct Get<'m, 'r> {
    /// What becomes the message. It is empty if that fails.
    pub message: &'m mut Message<'r>,
    /// Tells no producer of the free place; the caller does ([`OrderedQueue::places`]).
    pub quietly: bool,
}

impl<O: Order> Operation<O> for Get<'_, '_> {
    type Error = GetError;
    const NOT_YET: GetError = GetError::Empty;

    #[inline]
    fn perform<C>(
        &mut self,
        locked: &mut Locked<'_, O>,
        less: impl FnMut(Contender<'_, '_>, Contender<'_, '_>) -> Result<bool, C>,
    ) -> Result<(), OrderedError<GetError, C>> {
        locked.get(self.message, less)?;
        locked.has_got |= !self.quietly;
        Ok(())
    }

    fn event(queue: &OrderedQueue<O>) -> &Event {
        &queue.control.not_empty
    }

    fn is_worth_it(queue: &OrderedQueue<O>) -> bool {
        queue.has_something()
    }
}

/// Makes a message a copy of the one that is next, which stays where it is. The rest is as for [`Get`].
#[derive(Debug)]
pub struct Peek<'m, 'r> {
    /// What becomes the copy. It is empty if that fails.
    pub copy: &'m mut Message<'r>,
}

impl<O: Order> Operation<O> for Peek<'_, '_> {
    type Error = GetError;
    const NOT_YET: GetError = GetError::Empty;

    fn perform<C>(
        &mut self,
        locked: &mut Locked<'_, O>,
        _: impl FnMut(Contender<'_, '_>, Contender<'_, '_>) -> Result<bool, C>,
    ) -> Result<(), OrderedError<GetError, C>> {
        self.copy.empty();
        locked.peek(self.copy).map_err(OrderedError::Refused)
    }

    fn event(queue: &OrderedQueue<O>) -> &Event {
        &queue.control.not_empty
    }

    fn is_worth_it(queue: &OrderedQueue<O>) -> bool {
        queue.has_something()
    }
}

/// What became of an operation inside a wait.
#[derive(Debug)]
pub enum Outcome<E, T> {
    /// It was done, or waiting does not help.
    Performed(Result<(), E>),
    /// It may need what the wait gave away. Here is what it goes on with outside.
    Undecided(T),
}

/// A queue whose lock the caller holds. When it is dropped the lock is given back, and whoever waits is woken.
#[derive(Debug)]
pub struct Locked<'a, O: Order> {
    queue: &'a OrderedQueue<O>,
    region: &'a Region,
    me: Owner,
    has_put: bool,
    has_got: bool,
}

impl<O: Order> Locked<'_, O> {
    /// Does what keys decide; None if they do not.
    #[inline]
    fn try_perform<P: Operation<O>>(&mut self, operation: &mut P) -> Option<Result<(), P::Error>> {
        match operation.perform(self, |_, _| Err(())) {
            Ok(()) => Some(Ok(())),
            Err(OrderedError::Refused(error)) => Some(Err(error)),
            Err(OrderedError::Incomparable(())) => None,
        }
    }

    #[inline]
    fn put<C>(
        &mut self,
        message: &mut Message<'_>,
        number: usize,
        key: &Key,
        less: &mut impl FnMut(Contender<'_, '_>, Contender<'_, '_>) -> Result<bool, C>,
    ) -> Result<(), OrderedError<PutError, C>> {
        let Locked { queue, region, me, .. } = *self;
        let refused = |error| Err(OrderedError::Refused(error));
        if queue.is_shut_down() {
            return refused(PutError::ShutDown);
        }
        let count = queue.count()?;
        if count >= queue.control.limit() {
            return refused(PutError::Full);
        }
        let mut place = count;
        if O::BY_PRIORITY {
            while let Some(parent) = parent(place) {
                let entry = queue.entry(region, parent)?;
                let is_less = match compare(|word| key.0[word], |word| entry.key[word].read()) {
                    Some(order) => order == Less,
                    None => {
                        let (name, others) = self.view(entry)?;
                        let mine = Contender { name: Name::Put(number), message };
                        less(mine, Contender { name, message: &others }).map_err(OrderedError::Incomparable)?
                    }
                };
                if !is_less {
                    break;
                }
                place = parent;
            }
        }
        let out_of_memory = |error| OrderedError::Refused(PutError::OutOfMemory(error));
        queue.make_room(count, region, me.peer).map_err(out_of_memory)?;
        let last = queue.entry(region, count)?;
        let (meta, payload) = message.move_to_entry().map_err(out_of_memory)?;
        fault!(OrderedBlockReady);
        let Guarded { journal, message, .. } = &*queue.guarded;
        let entry = if place == count { last } else { message };
        entry.key.iter().zip(key.0).for_each(|(to, from)| to.write(from));
        entry.meta.write(meta);
        entry.payload.write(payload);
        let put = queue.put_in_all().wrapping_add(1);
        let change = Change { kind: ChangeKind::Put, mark: false, place, count: count + 1, put };
        journal.commit(&change);
        let entry = |entry| if entry == count { Ok(last) } else { queue.entry(region, entry) };
        queue.carry_out(&change, 0, region, me.peer, entry)?;
        self.has_put = true;
        Ok(())
    }

    #[inline]
    fn get<C>(
        &mut self,
        message: &mut Message<'_>,
        less: impl FnMut(Contender<'_, '_>, Contender<'_, '_>) -> Result<bool, C>,
    ) -> Result<(), OrderedError<GetError, C>> {
        let Locked { queue, region, me, .. } = *self;
        message.empty();
        let Some(last) = queue.count()?.checked_sub(1) else { return Err(OrderedError::Refused(self.nothing())) };
        let next = if O::BY_PRIORITY { 0 } else { last };
        let entry = queue.entry(region, next)?;
        let (meta, payload) = self.look(entry, message.prepared_for()).map_err(OrderedError::Refused)?;
        let Guarded { journal, message: got, .. } = &*queue.guarded;
        let put = queue.put_in_all();
        let change = |place| Change { kind: ChangeKind::Get, mark: false, place, count: last, put };
        if next == last {
            let change = change(last);
            journal.commit(&change);
            queue.carry_out(&change, 0, region, me.peer, |_| Ok(entry))?;
        } else {
            let table = Table::new(queue, region, last);
            let place = self.place_of_last(last, &table, less).map_err(|error| match error {
                OrderedError::Refused(corrupt) => corrupt.into(),
                OrderedError::Incomparable(error) => OrderedError::Incomparable(error),
            })?;
            let change = change(place);
            got.meta.write(meta);
            got.payload.write(payload);
            journal.commit(&change);
            queue.carry_out(&change, 0, region, me.peer, |entry| table.entry(entry))?;
        }
        message.take_entry(meta, payload);
        queue.give_room_back(region, me.peer);
        Ok(())
    }

    /// The meta and the payload of an entry whose message has at most so many bytes.
    #[inline]
    fn look(&self, entry: &Entry, most: u64) -> Result<(u64, u64), GetError> {
        let (meta, payload) = check(self.region, entry)?;
        let length = Meta::unpack(meta).length;
        if length > most { Err(GetError::Large(length)) } else { Ok((meta, payload)) }
    }

    fn peek(&self, copy: &mut Message<'_>) -> Result<(), GetError> {
        let Some(last) = self.queue.count()?.checked_sub(1) else { return Err(self.nothing()) };
        let entry = self.queue.entry(self.region, if O::BY_PRIORITY { 0 } else { last })?;
        self.look(entry, copy.prepared_for())?;
        let (_, original) = self.view(entry)?;
        let length = Meta::unpack(original.cell().meta).length;
        if length > copy.room() {
            copy.allocate(0, length as usize, &[])?;
        }
        copy.copy(original.cell());
        Ok(())
    }

    /// Why there is nothing to get.
    fn nothing(&self) -> GetError {
        if self.queue.is_shut_down() { GetError::ShutDown } else { GetError::Empty }
    }

    /// Where the last entry goes once the first is gone and all on the way down to there have moved up.
    ///
    /// Down along the lesser children to the bottom, and from there up past those that are more: the last entry nearly
    /// always belongs near the bottom.
    fn place_of_last<C>(
        &self,
        last: u64,
        table: &Table<'_>,
        mut less: impl FnMut(Contender<'_, '_>, Contender<'_, '_>) -> Result<bool, C>,
    ) -> Result<u64, OrderedError<Corrupt, C>> {
        let mut is_less = |one: u64, other: u64| {
            let (one, other) = (table.entry(one)?, table.entry(other)?);
            match compare(|word| one.key[word].read(), |word| other.key[word].read()) {
                Some(order) => Ok(order == Less),
                None => {
                    let ((my_name, mine), (name, others)) = (self.view(one)?, self.view(other)?);
                    let mine = Contender { name: my_name, message: &mine };
                    less(mine, Contender { name, message: &others }).map_err(OrderedError::Incomparable)
                }
            }
        };
        // `last` entries remain, of which those below `last / 2` have children.
        let mut place = 0;
        while place < last / 2 {
            let left = 2 * place + 1;
            let right = left + 1;
            place = if right < last && !is_less(left, right)? { right } else { left };
        }
        while let Some(parent) = parent(place)
            && is_less(last, place)?
        {
            place = parent;
        }
        Ok(place)
    }

    /// Lets no more messages in. Gets go on until the queue is empty; with `immediate` it is emptied now.
    ///
    /// # Errors
    /// [`GetError::Corrupt`].
    pub fn shut_down(self, immediate: bool) -> Result<(), GetError> {
        let Locked { queue, region, .. } = self;
        queue.control.shut_down(immediate);
        fault!(OrderedShutDown);
        let result = if immediate { self.throw_away() } else { Ok(()) };
        drop(self);
        queue.control.wake_all(immediate, region.bell());
        Ok(result?)
    }

    /// Throws all messages away, as done.
    ///
    /// # Errors
    /// [`GetError::Corrupt`].
    pub fn clear(self) -> Result<(), GetError> {
        let Locked { queue, region, .. } = self;
        let result = self.throw_away();
        drop(self);
        queue.control.not_full.notify_all(region.bell());
        Ok(result?)
    }

    /// Should the caller be killed, then some are left, and those that are not are counted.
    fn throw_away(&self) -> Result<(), Corrupt> {
        let Locked { queue, region, me, .. } = *self;
        let mut message = Message::new(region, me.peer);
        while let Some((meta, payload)) = queue.take_last(ChangeKind::ThrowAway, region, me.peer)? {
            message.take_entry(meta, payload);
            message.empty();
            queue.give_room_back(region, me.peer);
        }
        Ok(())
    }

    /// The message of an entry, for a look at it.
    fn view(&self, entry: &Entry) -> Result<(Name, ManuallyDrop<Message<'_>>), Corrupt> {
        let (meta, payload) = check(self.region, entry)?;
        Ok((Name::Queued([meta, payload]), Message::of_entry(self.region, self.me.peer, meta, payload)))
    }
}

impl<O: Order> Drop for Locked<'_, O> {
    #[inline]
    fn drop(&mut self) {
        let Locked { queue, region, me, has_put, has_got } = *self;
        fault!(OrderedLocked);
        // It is ours. A read-modify-write, as the wakes ask for that follow.
        let _ = queue.guarded.lock.release_save(me, region.bell());
        fault!(OrderedUnlocked);
        // Whoever is woken passes the wake on while there is more, so one is enough for many.
        if has_put {
            queue.control.not_empty.notify_one(region.bell());
        }
        if has_got {
            queue.control.not_full.notify_one(region.bell());
        }
    }
}

/// Places that became free. Producers are told of them all at once, when this is dropped at the latest.
#[derive(Debug)]
pub struct Places<'a> {
    not_full: &'a Event,
    region: &'a Region,
    untold: bool,
}

impl Places<'_> {
    /// Notes that a place became free.
    pub fn note(&mut self) {
        self.untold = true;
    }

    /// Tells producers of the places that were noted so far.
    pub fn tell(&mut self) {
        if core::mem::take(&mut self.untold) {
            self.not_full.notify_one(self.region.bell());
        }
    }
}

impl Drop for Places<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

/// Where a heap has the entry above another.
#[inline]
fn parent(entry: u64) -> Option<u64> {
    entry.checked_sub(1).map(|entry| entry / 2)
}

/// The entries on the way from one up to another, without the first.
#[inline]
fn way_up(from: u64, to: u64) -> impl Iterator<Item = u64> {
    core::iter::successors(Some(from), move |entry| if *entry == to { None } else { parent(*entry) }).skip(1)
}

/// The entries on the way down to one, without the top of the heap.
#[inline]
fn way_down(entry: u64) -> impl Iterator<Item = u64> {
    // Counted from 1, an entry's number without its last binary digits is that of one above.
    let number = entry + 1;
    (0..number.ilog2()).rev().map(move |digits| (number >> digits) - 1)
}

impl<O: Order> AnyQueue for OrderedQueue<O> {
    #[inline(always)]
    fn control(&self) -> &Control {
        &self.control
    }

    #[inline]
    fn len(&self) -> u64 {
        self.guarded.count.load(Ordering::Acquire)
    }

    #[inline]
    fn put_in_all(&self) -> u64 {
        self.guarded.put.load(Ordering::Acquire)
    }
}

/// Ready when a `get` would not wait.
impl<O: Order> Watchable for OrderedQueue<O> {
    fn is_ready(&self) -> bool {
        self.has_something()
    }

    fn look(&self) -> bool {
        self.control.not_empty.watch();
        self.is_ready()
    }
}

const _: () = assert!(size_of::<LifoQueue>() == 512 && core::mem::offset_of!(LifoQueue, control) == 0);
