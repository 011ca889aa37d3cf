//! A queue as the bindings call it: a chain of rings, two events to wait on, a count of unfinished tasks.
//!
//! `put` and `get` first try without waiting. Positions count messages, so the number of messages is `tail - head`
//! and the number of unfinished tasks is `tail - done`: neither costs `put` or `get` anything.
#![forbid(unsafe_code)]

use core::time::Duration;
use std::time::Instant;

use crate::control::{AnyQueue, Control};
use crate::error::{GetError, OutOfMemory, PutError, WaitError};
use crate::event::{Patience, Watchable};
use crate::heap::Heap;
use crate::layout::{Meta, ObjectHeader, PeerId};
use crate::object::{Message, Region};
use crate::ring::{Cell, Chain, FIRST_RING_SLOTS, Place, PopError, PushError};
use crate::sync::{fence_after_read_modify_write, spin_loop};

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
    pub(crate) fn initialize(&self, heap: &Heap, me: PeerId, maxsize: i64) -> Result<(), OutOfMemory> {
        self.control.initialize(maxsize);
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
        match self.control.not_full.wait_until(region.bell(), patience, attempt, || self.chain.len() < self.limit()) {
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
        let heap = region.heap();
        let cell = |place: usize| messages[place].cell();
        let hand_over = |place: usize| {
            if let Some(block) = messages[place].block() {
                heap.hand_over(block, None);
            }
        };
        match self.chain.push_some(heap, me, self.limit(), messages.len(), cell, hand_over) {
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
        self.get_untold(message, region, me, patience)?;
        self.control.not_full.notify_one(region.bell());
        Ok(())
    }

    /// Several gets of one thread, of which producers are told once.
    pub fn batch<'q>(&'q self, region: &'q Region, me: PeerId) -> Batch<'q> {
        Batch { queue: self, region, me, place: None, untold: false }
    }

    /// A get that tells no producer of the free place.
    #[inline(always)]
    fn get_untold<'q>(
        &'q self,
        message: &mut Message<'_>,
        region: &'q Region,
        me: PeerId,
        patience: Option<&Patience<'_>>,
    ) -> Result<Place<'q>, GetError> {
        self.obtain(region, patience, || {
            if self.control.is_shut_down_immediately() {
                return Err(TryGetError::Final(GetError::ShutDown));
            }
            Ok(self.take(region, me, message)?)
        })
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
        self.obtain(region, patience, || {
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
        let mut cell = Cell::default();
        loop {
            let room = message.room();
            match self.chain.peek(region.heap(), me, room, &mut cell, |cell| message.copy(cell)) {
                Ok(()) => return Ok(()),
                // The room is taken before the slot is, so that nobody waits for it.
                Err(PopError::Large(bytes)) if bytes <= message.prepared_for() => {
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
        patience: Option<&Patience<'_>>,
        mut attempt: impl FnMut() -> Result<T, TryGetError>,
    ) -> Result<T, GetError> {
        let error = match attempt() {
            Err(TryGetError::Final(error)) => return Err(error),
            Err(error) => error,
            Ok(value) => return Ok(value),
        };
        let Some(patience) = patience else {
            return if error == TryGetError::Empty { Err(GetError::Empty) } else { obtain_from_busy(attempt) };
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

    /// Takes the oldest message into `message` if that is prepared for it, whatever the queue's state, and tells nobody.
    #[inline(always)]
    pub(crate) fn take<'q>(
        &'q self,
        region: &'q Region,
        me: PeerId,
        message: &mut Message<'_>,
    ) -> Result<Place<'q>, PopError> {
        let heap = region.heap();
        message.empty();
        let most = message.prepared_for();
        let result = self.chain.pop(heap, me, most, message.cell_mut(), |cell| take_over(heap, me, cell));
        if result.is_err() {
            message.disown();
        }
        result
    }

    /// Throws all messages away, as done, that are there at the beginning.
    ///
    /// # Errors
    /// [`WaitError`]: it is waited for those who are just writing or looking. The call may be repeated.
    pub fn clear(&self, region: &Region, me: PeerId, patience: &Patience<'_>) -> Result<(), WaitError> {
        let end = self.chain.pushed();
        let mut message = Message::new(region, me);
        message.prepare(u64::MAX);
        let mut throw_away = || {
            while self.chain.popped() < end {
                match self.take(region, me, &mut message) {
                    Ok(_) => drop(self.task_done(region)), // more may have been reported done than were got
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

    /// Throws every message away, as done. Whoever is just writing or looking at one sees to it afterwards.
    fn drain(&self, region: &Region, me: PeerId) {
        let mut message = Message::new(region, me);
        message.prepare(u64::MAX);
        while self.take(region, me, &mut message).is_ok() {
            let _ = self.task_done(region);
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

    pub(crate) fn destroy(&self, heap: &Heap, me: PeerId) {
        self.chain.destroy(heap, me);
    }

    #[inline(always)]
    fn limit(&self) -> u64 {
        self.control.limit()
    }
}

impl AnyQueue for Queue {
    #[inline(always)]
    fn control(&self) -> &Control {
        &self.control
    }

    #[inline]
    fn len(&self) -> u64 {
        self.chain.len()
    }

    #[inline]
    fn put_in_all(&self) -> u64 {
        self.chain.pushed()
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

/// What a message that was taken has in the heap is the consumer's now.
#[inline(always)]
fn take_over(heap: &Heap, me: PeerId, cell: &Cell) {
    if !Meta::unpack(cell.meta).is_inline() {
        heap.hand_over(cell.payload[0] as u32, Some(me));
    }
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
            self.place = Some(self.queue.get_untold(message, self.region, self.me, patience)?);
        }
        self.untold = true;
        Ok(())
    }

    /// Takes the message that is next to the last one.
    #[inline(always)]
    fn get_next(&mut self, message: &mut Message<'_>) -> bool {
        let Some(place) = &mut self.place else { return false };
        if self.queue.control.is_shut_down_immediately() {
            return false;
        }
        let (heap, me) = (self.region.heap(), self.me);
        message.empty();
        let most = message.prepared_for();
        let on_claim = |cell: &Cell| take_over(heap, me, cell);
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
fn obtain_from_busy<T>(mut attempt: impl FnMut() -> Result<T, TryGetError>) -> Result<T, GetError> {
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
        if Instant::now() >= deadline {
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
