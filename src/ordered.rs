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
#![forbid(unsafe_code)]

use core::cmp::Ordering::Less;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

use crossbeam_utils::CachePadded;

use crate::control::{AnyQueue, Control};
use crate::error::{AcquireError, GetError, InUse, OrderedError, OutOfMemory, OwnerDied, PutError, WaitError};
use crate::event::{Attempt, Event, Patience, Turn, Watchable};
use crate::key::{Key, compare};
use crate::layout::{Entry, Meta, ObjectHeader, ObjectKind, PeerId};
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
}

impl<O> AsRef<ObjectHeader> for OrderedQueue<O> {
    fn as_ref(&self) -> &ObjectHeader {
        self.control.as_ref()
    }
}

/// The block of an entry, and its place there.
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
        let mut message = Message::new(region, me);
        while !self.is_empty() {
            self.take_last(region, &mut message);
            each(&mut message);
        }
        for block in self.blocks.iter() {
            if let Some(block) = block.load(Ordering::Relaxed).checked_sub(1) {
                region.heap().give_back(me, block);
            }
        }
    }

    // What follows is for whoever holds the lock.

    /// An entry that there is.
    #[inline]
    fn entry<'a>(&self, region: &'a Region, entry: u64) -> &'a Entry {
        let (block, place) = locate(entry);
        &region.table(self.blocks[block].load(Ordering::Relaxed).wrapping_sub(1))[place]
    }

    /// Makes room for one more entry.
    #[inline]
    fn make_room(&self, region: &Region, me: PeerId) -> Result<(), OutOfMemory> {
        let count = self.len();
        if count == MAX_MESSAGES {
            return Err(OutOfMemory { requested: size_of::<Entry>() as u64, available: 0 });
        }
        let (block, _) = locate(count);
        if self.blocks[block].load(Ordering::Relaxed) == 0 {
            let index = region.heap().take(me, size_of::<Entry>() * (FIRST_ENTRIES << block) as usize)?;
            region.heap().hand_over(index, None);
            self.blocks[block].store(index + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives the last block back once the one before is half empty: not at every put and get around its beginning.
    #[inline]
    fn give_room_back(&self, region: &Region, me: PeerId) {
        let (block, place) = locate(self.len());
        if place as u64 > FIRST_ENTRIES << block >> 1 {
            return;
        }
        if let Some(next) = self.blocks.get(block + 1)
            && let Some(index) = next.load(Ordering::Relaxed).checked_sub(1)
        {
            next.store(0, Ordering::Relaxed);
            region.heap().give_back(me, index);
            region.heap().trim(me); // messages had piled up, whose memory is free now
        }
    }

    /// Takes the last entry's message. There is one.
    fn take_last(&self, region: &Region, message: &mut Message<'_>) {
        let last = self.len() - 1;
        self.guarded.count.store(last, Ordering::Release);
        let entry = self.entry(region, last);
        message.take_entry(entry.meta.read(), entry.payload.read());
    }
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

    #[inline]
    fn entry(&self, entry: u64) -> &'a Entry {
        let (block, place) = locate(entry);
        &self.0[block][place]
    }
}

impl Entry {
    /// Becomes what another one is.
    #[inline]
    fn take(&self, other: &Entry) {
        self.key.iter().zip(&other.key).for_each(|(to, from)| to.write(from.read()));
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
        if queue.is_full() {
            return refused(PutError::Full);
        }
        let count = queue.len();
        let mut place = count;
        if O::BY_PRIORITY {
            while let Some(parent) = parent(place) {
                let entry = queue.entry(region, parent);
                let is_less = match compare(|word| key.0[word], |word| entry.key[word].read()) {
                    Some(order) => order == Less,
                    None => {
                        let (name, others) = self.view(entry);
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
        queue.make_room(region, me.peer).map_err(out_of_memory)?;
        let (meta, payload) = message.move_to_entry().map_err(out_of_memory)?;
        let mut free = count;
        while free != place
            && let Some(parent) = parent(free)
        {
            queue.entry(region, free).take(queue.entry(region, parent));
            free = parent;
        }
        let entry = queue.entry(region, place);
        entry.key.iter().zip(key.0).for_each(|(to, from)| to.write(from));
        entry.meta.write(meta);
        entry.payload.write(payload);
        queue.guarded.put.store(queue.put_in_all() + 1, Ordering::Release);
        queue.guarded.count.store(count + 1, Ordering::Release);
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
        let Some(last) = queue.len().checked_sub(1) else { return Err(OrderedError::Refused(self.nothing())) };
        let next = self.next(last, message.prepared_for()).map_err(OrderedError::Refused)?;
        if next == last {
            queue.take_last(region, message);
        } else {
            let table = Table::new(queue, region, last);
            let place = self.place_of_last(last, &table, less).map_err(OrderedError::Incomparable)?;
            let mut free = table.entry(0);
            message.take_entry(free.meta.read(), free.payload.read());
            for child in way_down(place) {
                let child = table.entry(child);
                free.take(child);
                free = child;
            }
            free.take(table.entry(last));
            queue.guarded.count.store(last, Ordering::Release);
        }
        queue.give_room_back(region, me.peer);
        Ok(())
    }

    /// The entry that is next where `last` is the last one, if its message has at most so many bytes.
    #[inline]
    fn next(&self, last: u64, most: u64) -> Result<u64, GetError> {
        let next = if O::BY_PRIORITY { 0 } else { last };
        let length = Meta::unpack(self.queue.entry(self.region, next).meta.read()).length;
        if length > most { Err(GetError::Large(length)) } else { Ok(next) }
    }

    fn peek(&self, copy: &mut Message<'_>) -> Result<(), GetError> {
        let Some(last) = self.queue.len().checked_sub(1) else { return Err(self.nothing()) };
        let next = self.next(last, copy.prepared_for())?;
        let (_, original) = self.view(self.queue.entry(self.region, next));
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
    ) -> Result<u64, C> {
        let mut is_less = |one: u64, other: u64| {
            let (one, other) = (table.entry(one), table.entry(other));
            match compare(|word| one.key[word].read(), |word| other.key[word].read()) {
                Some(order) => Ok(order == Less),
                None => {
                    let ((my_name, mine), (name, others)) = (self.view(one), self.view(other));
                    let mine = Contender { name: my_name, message: &mine };
                    less(mine, Contender { name, message: &others })
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
    pub fn shut_down(mut self, immediate: bool) {
        let Locked { queue, region, .. } = self;
        queue.control.shut_down(immediate);
        if immediate {
            self.throw_away();
        }
        drop(self);
        queue.control.wake_all(immediate, region.bell());
    }

    /// Throws all messages away, as done.
    pub fn clear(mut self) {
        let Locked { queue, region, .. } = self;
        self.throw_away();
        drop(self);
        queue.control.not_full.notify_all(region.bell());
    }

    fn throw_away(&mut self) {
        let Locked { queue, region, me, .. } = *self;
        let mut message = Message::new(region, me.peer);
        while !queue.is_empty() {
            queue.take_last(region, &mut message);
            queue.give_room_back(region, me.peer);
            message.empty();
            let _ = queue.task_done(region); // more may have been reported done than were got
        }
    }

    /// The message of an entry, for a look at it.
    fn view(&self, entry: &Entry) -> (Name, ManuallyDrop<Message<'_>>) {
        let (meta, payload) = (entry.meta.read(), entry.payload.read());
        (Name::Queued([meta, payload]), Message::of_entry(self.region, self.me.peer, meta, payload))
    }
}

impl<O: Order> Drop for Locked<'_, O> {
    #[inline]
    fn drop(&mut self) {
        let Locked { queue, region, me, has_put, has_got } = *self;
        // It is ours. A read-modify-write, as the wakes ask for that follow.
        let _ = queue.guarded.lock.release(me, region.bell());
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
