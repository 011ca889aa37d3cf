//! A queue as the bindings call it: a chain of rings, two events to wait on, a count of unfinished tasks.
//!
//! `put` and `get` first try without waiting. Positions count messages, so the number of messages is `tail - head`
//! and the number of unfinished tasks is `tail - done`: neither costs `put` or `get` anything.
#![forbid(unsafe_code)]

use core::time::Duration;
use std::time::Instant;

use crate::control::{self, AnyQueue, Control, IMMEDIATE, REDELIVERS, RETURNED};
use crate::envelope::{self, Returned, Taken};
use crate::error::{GetError, OutOfMemory, PutError, TooManyDone, WaitError};
use crate::event::{Patience, Watchable};
use crate::heap::Heap;
use crate::layout::{Envelope, Meta, ObjectHeader, ObjectId, PeerId};
use crate::object::{Message, Region};
use crate::ring::{Cell, Chain, FIRST_RING_SLOTS, MOST_CLAIMED, NO_LIMIT, Place, PopError, PushError, Recovery};
use crate::sync::{AtomicU64, Ordering, fence_after_read_modify_write, spin_loop};

/// Messages of more bytes are only given to those who are prepared for them.
pub const LARGE_BYTES: u64 = 1 << 20;

/// How long a `get` that may not wait gives a producer that is just writing, or somebody who looks: they are done in
/// nanoseconds, unless the kernel took their processor away.
const OWNER_TIME: Duration = Duration::from_millis(2);

/// A queue's state, as it lies in a region.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Queue {
    control: Control,
    chain: Chain,
}

impl AsRef<ObjectHeader> for Queue {
    fn as_ref(&self) -> &ObjectHeader {
        self.control.as_ref()
    }
}

impl Queue {
    pub(crate) fn initialize(&self, heap: &Heap, me: PeerId, id: ObjectId, maxsize: i64) -> Result<(), OutOfMemory> {
        self.control.initialize(maxsize);
        self.control.rest.id.store(id.pack(), Ordering::Relaxed);
        self.chain.initialize(heap, me, FIRST_RING_SLOTS)
    }

    /// Appends a message, which then belongs to the queue. Without `patience` it is not waited for a place.
    ///
    /// # Errors
    /// [`PutError`]; the message still belongs to the caller then.
    #[inline]
    pub fn put(
        &self,
        message: &mut Message<'_>,
        region: &Region,
        me: PeerId,
        patience: Option<&Patience<'_>>,
    ) -> Result<(), PutError> {
        match self.try_put(message, region, me) {
            Err(PutError::Full) => {}
            result => return result,
        }
        let Some(patience) = patience else { return Err(PutError::Full) };
        self.wait_for_place(region, patience, || self.try_put(message, region, me))
    }

    /// Appends messages in their order. `put` counts those that were put; the call goes on there when it is repeated.
    /// Consumers are told when all are put, or no more have a place.
    ///
    /// # Errors
    /// [`PutError`]; the messages from `put` on still belong to the caller then.
    pub fn put_many(
        &self,
        messages: &mut [Message<'_>],
        put: &mut usize,
        region: &Region,
        me: PeerId,
        patience: Option<&Patience<'_>>,
    ) -> Result<(), PutError> {
        let mut put_rest = || {
            let before = *put;
            let mut result = Ok(());
            while *put < messages.len() && result.is_ok() {
                result = self.push(&mut messages[*put..], region, me).map(|count| *put += count);
            }
            if *put != before {
                self.announce(region, me);
            }
            result
        };
        match put_rest() {
            Err(PutError::Full) => {}
            result => return result,
        }
        let Some(patience) = patience else { return Err(PutError::Full) };
        self.wait_for_place(region, patience, put_rest)
    }

    /// Calls `attempt` until it doesn't find the queue full.
    fn wait_for_place(
        &self,
        region: &Region,
        patience: &Patience<'_>,
        mut attempt: impl FnMut() -> Result<(), PutError>,
    ) -> Result<(), PutError> {
        let attempt = || match attempt() {
            Err(PutError::Full) => None,
            result => Some(result),
        };
        match self.control.not_full.wait_until(region.bell(), patience, attempt, || self.len() < self.control.limit()) {
            Ok(result) => result,
            Err(WaitError::TimedOut) => Err(PutError::Full),
            Err(WaitError::Interrupted) => Err(PutError::Interrupted),
        }
    }

    #[inline(always)]
    fn try_put(&self, message: &mut Message<'_>, region: &Region, me: PeerId) -> Result<(), PutError> {
        self.push(core::slice::from_mut(message), region, me)?;
        self.announce(region, me);
        Ok(())
    }

    /// Puts some of the messages, at least the first, and tells nobody; how many.
    #[inline(always)]
    fn push(&self, messages: &mut [Message<'_>], region: &Region, me: PeerId) -> Result<usize, PutError> {
        let flags = self.control.flags();
        if flags & (RETURNED | REDELIVERS) != 0 {
            return self.push_unusually(messages, region, me, flags);
        }
        self.push_as_it_is(messages, region, me, self.control.limit())
    }

    #[inline(always)]
    fn push_as_it_is(
        &self,
        messages: &mut [Message<'_>],
        region: &Region,
        me: PeerId,
        limit: u64,
    ) -> Result<usize, PutError> {
        let heap = region.heap();
        let cell = |place: usize| messages[place].cell();
        let hand_over = |place: usize| give_up(region, messages[place].cell());
        match self.chain.push_some(heap, me, limit, messages.len(), cell, hand_over) {
            Ok(count) => {
                messages[..count].iter_mut().for_each(Message::disown);
                Ok(count)
            }
            Err(PushError::Full) => Err(PutError::Full),
            Err(PushError::Sealed) => Err(PutError::ShutDown),
            Err(PushError::OutOfMemory(error)) => Err(PutError::OutOfMemory(error)),
            Err(PushError::Corrupt) => Err(PutError::Corrupt),
        }
    }

    /// The same for a queue that delivers again, where messages are in envelopes, or to which some came back.
    #[cold]
    fn push_unusually(
        &self,
        messages: &mut [Message<'_>],
        region: &Region,
        me: PeerId,
        flags: u32,
    ) -> Result<usize, PutError> {
        let limit = match self.control.limit() {
            NO_LIMIT => NO_LIMIT,
            limit => limit.saturating_sub(self.returned().count()),
        };
        if flags & REDELIVERS == 0 {
            return self.push_as_it_is(messages, region, me, limit);
        }
        let mut wrapped = 0;
        let mut result = Ok(0);
        for message in messages.iter_mut().take(MOST_CLAIMED) {
            if let Err(error) = envelope::wrap(message, region, me, self.id()) {
                result = Err(error.into());
                break;
            }
            wrapped += 1;
        }
        if wrapped > 0 {
            result = self.push_as_it_is(&mut messages[..wrapped], region, me, limit);
        }
        for message in &mut messages[..wrapped] {
            envelope::unwrap(message, region, me); // those that were not put
        }
        result
    }

    /// Tells consumers of messages that were put, or put back.
    #[inline(always)]
    fn announce(&self, region: &Region, me: PeerId) {
        self.control.not_empty.notify_one(region.bell()); // and its fence orders the commit before the flags
        if self.control.is_shut_down_immediately() {
            self.drain(region, me); // shut down meanwhile: nobody will get them
        }
    }

    /// Takes the oldest message into `message`. Without `patience` it is not waited for one.
    ///
    /// One of more than [`LARGE_BYTES`] stays where it is unless `message` is prepared for its size
    /// ([`Message::prepare`]), so that a receiver who has no memory for it loses nothing.
    ///
    /// # Errors
    /// [`GetError`]; the message is empty then.
    #[inline]
    pub fn get(
        &self,
        message: &mut Message<'_>,
        region: &Region,
        me: PeerId,
        patience: Option<&Patience<'_>>,
    ) -> Result<(), GetError> {
        let _place = self.get_untold(message, region, me, patience)?;
        self.control.not_full.notify_one(region.bell());
        Ok(())
    }

    /// Several gets of one thread, of which producers are told once.
    pub fn batch<'q>(&'q self, region: &'q Region, me: PeerId) -> Batch<'q> {
        Batch { queue: self, region, me, place: None, untold: false }
    }

    /// A get that tells no producer of the free place; the place behind it, if it was in the ring.
    #[inline(always)]
    fn get_untold<'q>(
        &'q self,
        message: &mut Message<'_>,
        region: &'q Region,
        me: PeerId,
        patience: Option<&Patience<'_>>,
    ) -> Result<Option<Place<'q>>, GetError> {
        self.obtain(region, me, patience, || {
            let flags = self.control.flags();
            if flags & (IMMEDIATE | RETURNED | REDELIVERS) != 0 {
                return self.get_unusually(message, region, me, flags).map(|()| None);
            }
            Ok(Some(self.take_from_ring(region, me, message)?))
        })
    }

    #[cold]
    fn get_unusually(
        &self,
        message: &mut Message<'_>,
        region: &Region,
        me: PeerId,
        flags: u32,
    ) -> Result<(), TryGetError> {
        if flags & IMMEDIATE != 0 {
            return Err(TryGetError::Final(GetError::ShutDown));
        }
        if flags & REDELIVERS == 0 {
            return Ok(self.take(region, me, message)?);
        }
        // The message stays with us until it is acknowledged: what is given is a copy.
        message.empty();
        let most = message.prepared_for();
        let mut result =
            self.copy_with_room(message, most, |room, message| self.take_in_hand(region, me, room, message));
        if result.is_err() {
            message.empty();
        } else if self.control.is_shut_down_immediately() {
            // Nobody will acknowledge it: it is thrown away, as the others were.
            message.empty();
            let _ = self.task_done(region);
            result = Err(TryGetError::Final(GetError::ShutDown));
        }
        result
    }

    /// Takes the oldest message, which stays this participant's until it is acknowledged, and makes `message` a copy.
    fn take_in_hand(&self, region: &Region, me: PeerId, room: u64, message: &mut Message<'_>) -> Result<(), PopError> {
        let index = if let Some(index) = self.take_returned(region, me, room, true)? {
            if let Some(envelope) = region.envelope(index) {
                message.copy(&envelope.cell());
            }
            index
        } else {
            let mut cell = Cell::default();
            let place = self.chain.pop(region.heap(), me, room, &mut cell, |cell| {
                let index = cell.payload[0] as u32;
                match region.envelope(index).filter(|_| cell.meta & Meta::ENVELOPED != 0) {
                    Some(envelope) => {
                        message.copy(&envelope.cell());
                        region.heap().take_in_hand(index, me);
                    }
                    None => take_over(region, me, cell),
                }
            })?;
            if cell.meta & Meta::ENVELOPED == 0 {
                // Put by somebody who did not know yet that it has to be acknowledged, or by nobody.
                message.empty();
                *message.cell_mut() = cell;
                return Ok(());
            }
            let index = cell.payload[0] as u32;
            if let Some(envelope) = region.envelope(index) {
                envelope.position.store(place.position().wrapping_sub(1), Ordering::Relaxed);
            }
            index
        };
        region.taken().add(self.id(), me, index, message.is_redelivered());
        Ok(())
    }

    /// Makes `message` a copy of the oldest one, which stays where it is. The rest is as for [`Queue::get`].
    ///
    /// # Errors
    /// [`GetError`]; the message is empty then.
    pub fn peek(
        &self,
        message: &mut Message<'_>,
        region: &Region,
        me: PeerId,
        patience: Option<&Patience<'_>>,
    ) -> Result<(), GetError> {
        self.obtain(region, me, patience, || {
            message.empty();
            if self.control.is_shut_down_immediately() {
                return Err(TryGetError::Final(GetError::ShutDown));
            }
            let result = self.copy_oldest(region, me, message);
            if result.is_err() {
                message.empty();
            }
            result
        })?;
        self.announce(region, me); // those who found us looking may sleep
        Ok(())
    }

    /// Copies the oldest message, once there is room for it.
    fn copy_oldest(&self, region: &Region, me: PeerId, message: &mut Message<'_>) -> Result<(), TryGetError> {
        let most = message.prepared_for();
        self.copy_with_room(message, most, |room, message| {
            if self.control.flags() & RETURNED != 0
                && let Some(index) = self.take_returned(region, me, room, true)?
            {
                // Nobody else sees it meanwhile, and if we die it goes back.
                if let Some(envelope) = region.envelope(index) {
                    message.copy(&envelope.cell());
                }
                self.put_back(region, me, index, 0, None);
                return Ok(());
            }
            let mut cell = Cell::default();
            self.chain.peek(region.heap(), me, room, &mut cell, |cell| {
                if cell.meta & Meta::ENVELOPED == 0 {
                    message.copy(cell);
                } else if let Some(envelope) = region.envelope(cell.payload[0] as u32) {
                    message.copy(&envelope.cell());
                }
            })
        })
    }

    /// Calls `copy` with a message that has more and more room, as long as it asks for it and that is not too much.
    fn copy_with_room<'m>(
        &self,
        message: &mut Message<'m>,
        most: u64,
        mut copy: impl FnMut(u64, &mut Message<'m>) -> Result<(), PopError>,
    ) -> Result<(), TryGetError> {
        loop {
            match copy(message.room(), message) {
                Ok(()) => return Ok(()),
                // The room is taken before the message is, so that nobody waits for it.
                Err(PopError::Large(bytes)) if bytes <= most => {
                    message.allocate(0, bytes as usize, &[]).map_err(|error| TryGetError::Final(error.into()))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Calls `attempt` until it gives a message, or says that waiting would not change anything.
    #[inline(always)]
    fn obtain<T>(
        &self,
        region: &Region,
        me: PeerId,
        patience: Option<&Patience<'_>>,
        mut attempt: impl FnMut() -> Result<T, TryGetError>,
    ) -> Result<T, GetError> {
        let error = match attempt() {
            Err(TryGetError::Final(error)) => return Err(error),
            Err(error) => error,
            Ok(value) => return Ok(value),
        };
        let Some(patience) = patience else {
            return if error == TryGetError::Empty {
                Err(GetError::Empty)
            } else {
                obtain_from_busy(region, me, attempt)
            };
        };
        let attempt = || match attempt() {
            Err(TryGetError::Empty | TryGetError::Busy | TryGetError::Peeked) => None,
            Err(TryGetError::Final(error)) => Some(Err(error)),
            Ok(value) => Some(Ok(value)),
        };
        match self.control.not_empty.wait_until(region.bell(), patience, attempt, || !self.is_empty()) {
            Ok(result) => result,
            Err(WaitError::TimedOut) => Err(GetError::Empty),
            Err(WaitError::Interrupted) => Err(GetError::Interrupted),
        }
    }

    /// Waits while the oldest message is just being written or looked at.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn settle(&self, region: &Region, patience: &Patience<'_>) -> Result<(), WaitError> {
        let settled = || (!self.chain.is_busy(region.heap())).then_some(());
        self.control.not_empty.wait_until(region.bell(), patience, settled, || !self.is_empty())
    }

    /// Takes the oldest message into `message` if that is prepared for it, whatever the queue's state, as got and
    /// acknowledged, and tells nobody.
    fn take(&self, region: &Region, me: PeerId, message: &mut Message<'_>) -> Result<(), PopError> {
        if self.control.flags() & RETURNED != 0 {
            message.empty();
            if let Some(index) = self.take_returned(region, me, message.prepared_for(), false)? {
                message.cell_mut().meta = Meta::ENVELOPED;
                message.cell_mut().payload[0] = u64::from(index);
                envelope::unwrap(message, region, me);
                return Ok(());
            }
        }
        self.take_from_ring(region, me, message).map(|_| ())
    }

    /// The same for the ring alone.
    #[inline(always)]
    fn take_from_ring<'q>(
        &'q self,
        region: &'q Region,
        me: PeerId,
        message: &mut Message<'_>,
    ) -> Result<Place<'q>, PopError> {
        message.empty();
        let most = message.prepared_for();
        let result = self.chain.pop(region.heap(), me, most, message.cell_mut(), |cell| take_over(region, me, cell));
        match result {
            Ok(_) => envelope::unwrap(message, region, me),
            Err(_) => message.disown(),
        }
        result
    }

    /// Takes the oldest message that came back, if there is one: its envelope and its block are `me`'s, to be
    /// acknowledged if `in_hand`.
    fn take_returned(&self, region: &Region, me: PeerId, most: u64, in_hand: bool) -> Result<Option<u32>, PopError> {
        let mut result = Ok(None);
        region.heap().transact(me, |transaction| {
            let Some((index, envelope)) = self.returned().first(region) else {
                self.control.clear_flags(RETURNED);
                return None;
            };
            if !region.heap().is_queued(index) {
                self.returned().forget(&mut |word, value| transaction.set(word, value));
                result = Err(PopError::Corrupt);
                return Some(());
            }
            let room = Meta::unpack(envelope.meta.load(Ordering::Relaxed)).room();
            if room > most {
                result = Err(PopError::Large(room));
                return None;
            }
            self.returned().remove_first(region, &mut |word, value| transaction.set(word, value));
            if in_hand {
                region.heap().take_in_hand_with(transaction, index, me)?;
            } else {
                region.heap().hand_over_with(transaction, index, Some(me))?;
                if let Some(block) = envelope.block() {
                    region.heap().hand_over_with(transaction, block, Some(me));
                }
            }
            result = Ok(Some(index));
            Some(())
        });
        result
    }

    /// Adds an envelope to the messages that came back, which has the further flags in its meta from then on. With that
    /// its slot's meta becomes 0, if it comes from a slot.
    fn put_back(&self, region: &Region, me: PeerId, index: u32, flags: u64, slot: Option<&AtomicU64>) {
        region.heap().transact(me, |transaction| {
            self.control.set_flags(RETURNED);
            self.returned().insert(region, index, &mut |word, value| transaction.set(word, value));
            slot.into_iter().for_each(|meta| transaction.set(meta, 0));
            if let Some(envelope) = region.envelope(index) {
                transaction.set(&envelope.meta, envelope.meta.load(Ordering::Relaxed) | flags);
                if let Some(block) = envelope.block() {
                    region.heap().hand_over_with(transaction, block, None);
                }
            }
            region.heap().hand_over_with(transaction, index, None)
        });
    }

    /// Gives an envelope back to its queue that a dead participant had got and not acknowledged.
    pub(crate) fn give_back_taken(region: &Region, me: PeerId, index: u32) {
        let queue = region.envelope(index).map_or(0, |envelope| envelope.queue.load(Ordering::Relaxed));
        region.taken().forget(queue, index);
        match ObjectId::unpack(queue).and_then(|id| region.attach::<Queue>(id, me).ok()) {
            Some(queue) => {
                // Somebody who only looked at a message of another kind of queue may have died, too.
                let flags = if queue.control.flags() & REDELIVERS != 0 { Meta::REDELIVERED } else { 0 };
                queue.put_back(region, me, index, flags, None);
                queue.announce(region, me);
            }
            None => throw_away(region, me, index),
        }
    }

    /// Puts right what a dead participant left in it.
    pub(crate) fn recover(&self, region: &Region, dead: PeerId, me: PeerId) {
        self.chain.recover(region.heap(), dead, &mut Repair { queue: self, region, me });
        if self.control.is_shut_down_immediately() {
            self.drain(region, me); // what has come back
        }
        self.control.recover();
    }

    /// Throws all messages away, as done, that are there at the beginning.
    ///
    /// # Errors
    /// [`WaitError`]: it is waited for those who are just writing or looking. The call may be repeated.
    pub fn clear(&self, region: &Region, me: PeerId, patience: &Patience<'_>) -> Result<(), WaitError> {
        let end = self.chain.pushed();
        let mut returned = self.returned().count();
        let mut message = Message::new(region, me);
        message.prepare(u64::MAX);
        let mut throw_away = || {
            while returned > 0 || self.chain.popped() < end {
                returned = returned.saturating_sub(1);
                match self.take(region, me, &mut message) {
                    Ok(()) => self.count_done(region, me),
                    Err(PopError::Busy | PopError::Peeked) => return None,
                    Err(PopError::Empty | PopError::Ended | PopError::Large(_) | PopError::Corrupt) => break,
                }
            }
            Some(())
        };
        let result = match throw_away() {
            Some(()) => Ok(()),
            None => self.control.not_empty.wait_until(region.bell(), patience, throw_away, || !self.is_empty()),
        };
        self.control.not_full.notify_all(region.bell());
        result
    }

    /// Counts a message as done that is thrown away: more may have been reported done than were got.
    fn count_done(&self, region: &Region, me: PeerId) {
        if self.control.flags() & REDELIVERS == 0 {
            let _ = self.task_done(region);
            return;
        }
        region.heap().transact(me, |transaction| {
            self.control.done_with(self.put_in_all(), &mut |word, value| transaction.set(word, value)).then_some(())
        });
        self.control.tell_done(self.put_in_all(), region.bell());
    }

    /// Throws every message away, as done. Whoever is just writing or looking at one sees to it afterwards.
    fn drain(&self, region: &Region, me: PeerId) {
        let mut message = Message::new(region, me);
        message.prepare(u64::MAX);
        while self.take(region, me, &mut message).is_ok() {
            self.count_done(region, me);
        }
        self.control.not_full.notify_all(region.bell());
    }

    /// Lets no more messages in. Gets go on until the queue is empty; with `immediate` it is emptied now.
    pub fn shut_down(&self, immediate: bool, region: &Region, me: PeerId) {
        self.control.shut_down(immediate);
        self.chain.seal(region.heap(), me);
        if immediate {
            // A put that has claimed its slot already sees the flag when it is done, or the drain sees its message.
            fence_after_read_modify_write();
            self.drain(region, me);
        }
        self.control.wake_all(immediate, region.bell());
    }

    /// Gives everything back that it has. Nobody else knows it. The call may be repeated, by others, too.
    pub(crate) fn destroy(&self, region: &Region, id: ObjectId, me: PeerId, mut each: impl FnMut(&mut Message<'_>)) {
        let mut message = Message::new(region, me);
        message.prepare(u64::MAX);
        if self.chain.is_alive() {
            while self.take(region, me, &mut message).is_ok() {
                each(&mut message);
            }
        }
        self.chain.destroy(region.heap(), me); // also what somebody has begun to, who died
        for taken in region.taken().remove_queue(id.pack()) {
            throw_away(region, taken.peer, taken.index);
        }
    }

    /// Has messages be delivered again that somebody got and did not report done before it died; or not. False if
    /// messages were put already: it is too late then.
    pub fn set_redelivers(&self, redelivers: bool, region: &Region, me: PeerId) -> bool {
        // Alone with others who do the same; nobody puts yet, or `put` counts it.
        let changed = region.heap().transact(me, |_| {
            if self.redelivers() == redelivers {
                return Some(());
            }
            (self.put_in_all() == 0).then(|| {
                if redelivers {
                    self.control.set_flags(REDELIVERS);
                } else {
                    self.control.clear_flags(REDELIVERS);
                }
            })
        });
        changed.is_some()
    }

    /// Whether messages that nobody acknowledged are delivered again.
    pub fn redelivers(&self) -> bool {
        self.control.flags() & REDELIVERS != 0
    }

    /// Whether somebody had got the message before that this thread got last and did not report done.
    pub fn is_redelivered(&self, region: &Region) -> bool {
        region.taken().is_redelivered(self.id())
    }

    fn id(&self) -> u64 {
        self.control.rest.id.load(Ordering::Relaxed)
    }

    fn returned(&self) -> &Returned {
        &self.control.rest.returned
    }
}

/// Puts right what a chain can't by itself.
struct Repair<'q> {
    queue: &'q Queue,
    region: &'q Region,
    me: PeerId,
}

impl Recovery for Repair<'_> {
    fn skip(&mut self, plan: impl FnOnce(&mut dyn FnMut(&AtomicU64, u64))) {
        let skipped = &self.queue.control.rest.skipped;
        self.region.heap().transact(self.me, |transaction| {
            plan(&mut |word, value| transaction.set(word, value));
            transaction.set(skipped, skipped.load(Ordering::Relaxed).wrapping_add(1));
            Some(())
        });
    }

    fn complete(&mut self, cell: &Cell) {
        give_up(self.region, cell);
    }

    fn put_back(&mut self, cell: &Cell, position: u64, meta: &AtomicU64) -> bool {
        let (region, me) = (self.region, self.me);
        let index = if cell.meta & Meta::ENVELOPED != 0 {
            cell.payload[0] as u32
        } else {
            let Ok(index) = envelope::make(region, me, cell, self.queue.id()) else { return false };
            index
        };
        if let Some(envelope) = region.envelope(index) {
            envelope.position.store(position, Ordering::Relaxed);
        }
        self.queue.put_back(region, me, index, 0, Some(meta));
        true
    }
}

impl AnyQueue for Queue {
    #[inline(always)]
    fn control(&self) -> &Control {
        &self.control
    }

    #[inline]
    fn len(&self) -> u64 {
        self.chain.len().saturating_add(self.returned().count())
    }

    #[inline]
    fn put_in_all(&self) -> u64 {
        self.chain.pushed()
    }

    /// In a queue that delivers again it acknowledges the oldest message that this thread got, or else this process.
    fn task_done(&self, region: &Region) -> Result<(), TooManyDone> {
        if !self.redelivers() {
            return control::task_done(self, region);
        }
        let taken = region.taken().remove_oldest(self.id()).ok_or(TooManyDone)?;
        let Taken { index, peer, .. } = taken;
        let block = region.envelope(index).and_then(Envelope::block);
        let heap = region.heap();
        // All at once: a message that is acknowledged does not come back, and one that is not is not counted.
        let done = heap.transact(peer, |transaction| {
            let is_one = self.control.done_with(self.put_in_all(), &mut |word, value| transaction.set(word, value));
            if !is_one || !heap.is_in_hand(index, peer) {
                return None;
            }
            if let Some(block) = block {
                heap.hand_over_with(transaction, block, Some(peer));
            }
            heap.hand_over_with(transaction, index, Some(peer))
        });
        if done.is_none() {
            region.taken().restore(self.id(), taken);
            return Err(TooManyDone);
        }
        throw_away(region, peer, index);
        self.control.tell_done(self.put_in_all(), region.bell());
        Ok(())
    }
}

/// Ready when a `get` would not wait.
impl Watchable for Queue {
    fn is_ready(&self) -> bool {
        self.has_something()
    }

    fn look(&self) -> bool {
        self.control.not_empty.watch();
        self.is_ready()
    }
}

/// What a message has in the heap is the queue's from here on.
#[inline(always)]
fn give_up(region: &Region, cell: &Cell) {
    hand_over(region, cell, None);
}

/// What a message that was taken has in the heap is the consumer's now.
#[inline(always)]
fn take_over(region: &Region, me: PeerId, cell: &Cell) {
    hand_over(region, cell, Some(me));
}

#[inline(always)]
fn hand_over(region: &Region, cell: &Cell, to: Option<PeerId>) {
    if cell.meta & Meta::ENVELOPED != 0 {
        hand_over_envelope(region, cell, to);
    } else if !Meta::unpack(cell.meta).is_inline() {
        region.heap().hand_over(cell.payload[0] as u32, to);
    }
}

#[cold]
fn hand_over_envelope(region: &Region, cell: &Cell, to: Option<PeerId>) {
    let index = cell.payload[0] as u32;
    if let Some(block) = region.envelope(index).and_then(Envelope::block) {
        region.heap().hand_over(block, to);
    }
    region.heap().hand_over(index, to);
}

/// Frees an envelope that is `me`'s, with its message.
fn throw_away(region: &Region, me: PeerId, index: u32) {
    let cell = Cell { meta: Meta::ENVELOPED, ..Cell::default() };
    let mut message = Message::new(region, me);
    *message.cell_mut() = cell;
    message.cell_mut().payload[0] = u64::from(index);
    take_over(region, me, message.cell());
    envelope::unwrap(&mut message, region, me);
}

/// Several gets of one thread. Producers are told of all the free places at once, when it is dropped at the latest.
#[derive(Debug)]
pub struct Batch<'q> {
    queue: &'q Queue,
    region: &'q Region,
    me: PeerId,
    /// Where the next message may be.
    place: Option<Place<'q>>,
    /// Places are free that nobody was told of.
    untold: bool,
}

impl Batch<'_> {
    /// As [`Queue::get`].
    ///
    /// # Errors
    /// [`GetError`].
    #[inline]
    pub fn get(&mut self, message: &mut Message<'_>, patience: Option<&Patience<'_>>) -> Result<(), GetError> {
        if !self.get_next(message) {
            self.leave_place();
            self.place = self.queue.get_untold(message, self.region, self.me, patience)?;
        }
        self.untold = true;
        Ok(())
    }

    /// Takes the message that is next to the last one.
    #[inline(always)]
    fn get_next(&mut self, message: &mut Message<'_>) -> bool {
        let Some(place) = &mut self.place else { return false };
        if self.queue.control.flags() & (IMMEDIATE | RETURNED | REDELIVERS) != 0 {
            return false;
        }
        let (region, me) = (self.region, self.me);
        message.empty();
        let most = message.prepared_for();
        let on_claim = |cell: &Cell| take_over(region, me, cell);
        let is_taken = self.queue.chain.pop_next(me, most, message.cell_mut(), on_claim, place);
        if !is_taken {
            message.disown();
        }
        is_taken
    }

    fn leave_place(&mut self) {
        if let Some(place) = self.place.take() {
            self.queue.chain.leave_place(place);
        }
    }

    /// Tells producers, and whoever counts, of the places that are free so far.
    pub fn tell(&mut self) {
        self.leave_place();
        if core::mem::take(&mut self.untold) {
            self.queue.control.not_full.notify_one(self.region.bell());
        }
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

/// A get that may not wait, for a message that somebody has just in hand: others behind it may be complete.
#[cold]
fn obtain_from_busy<T>(
    region: &Region,
    me: PeerId,
    mut attempt: impl FnMut() -> Result<T, TryGetError>,
) -> Result<T, GetError> {
    let deadline = Instant::now() + OWNER_TIME;
    loop {
        for _ in 0..64 {
            spin_loop();
        }
        let error = match attempt() {
            Ok(value) => return Ok(value),
            Err(TryGetError::Final(error)) => return Err(error),
            Err(TryGetError::Empty) => return Err(GetError::Empty),
            Err(TryGetError::Busy) => GetError::Empty,
            Err(TryGetError::Peeked) => GetError::Peeked, // it is not empty, and nobody may go past
        };
        if Instant::now() >= deadline && region.look_for_deaths(me) == 0 {
            return Err(error);
        }
        std::thread::yield_now();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TryGetError {
    /// There is nothing yet: worth a wait.
    Empty,
    /// A producer is just writing: worth a moment even to those who may not wait.
    Busy,
    /// Somebody is just looking at the message: worth a wait to all.
    Peeked,
    /// Waiting would not change it.
    Final(GetError),
}

impl From<PopError> for TryGetError {
    #[inline(always)]
    fn from(error: PopError) -> TryGetError {
        match error {
            PopError::Empty => TryGetError::Empty,
            PopError::Busy => TryGetError::Busy,
            PopError::Peeked => TryGetError::Peeked,
            PopError::Ended => TryGetError::Final(GetError::ShutDown),
            PopError::Large(bytes) => TryGetError::Final(GetError::Large(bytes)),
            PopError::Corrupt => TryGetError::Final(GetError::Corrupt),
        }
    }
}

const _: () = {
    assert!(size_of::<Queue>() == 512);
    assert!(core::mem::offset_of!(Queue, control) == 0);
};
