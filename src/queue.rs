//! A queue as the bindings call it: a chain of rings, two events to wait on, a count of unfinished tasks.
//!
//! `put` and `get` first try without waiting. Positions count messages, so the number of messages is `tail - head`
//! and the number of unfinished tasks is `tail - done`: neither costs `put` or `get` anything.
#![forbid(unsafe_code)]

use core::time::Duration;
use std::time::Instant;

use crate::control::Control;
use crate::error::{GetError, OutOfMemory, PutError, TooManyDone, WaitError};
use crate::event::{Bell, Patience, Watchable};
use crate::heap::Heap;
use crate::layout::{Meta, ObjectHeader, PeerId};
use crate::object::{Message, Region};
use crate::ring::{Chain, FIRST_RING_SLOTS, PopError, PushError};
use crate::sync::{fence_after_read_modify_write, spin_loop};

/// Messages of more bytes are only given to those who are prepared for them.
pub const LARGE_BYTES: u64 = 1 << 20;

/// How long a `get` that may not wait gives a producer that is just writing: it is done in nanoseconds, unless the
/// kernel took its processor away.
const WRITER_TIME: Duration = Duration::from_millis(2);

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
    pub(crate) fn initialize(&self, heap: &Heap, maxsize: i64) -> Result<(), OutOfMemory> {
        self.control.initialize(maxsize);
        self.chain.initialize(heap, FIRST_RING_SLOTS)
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
        let attempt = || match self.try_put(message, region, me) {
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
        let block = message.block();
        let hand_over = || {
            if let Some(block) = block {
                region.heap().hand_over(block, None);
            }
        };
        match self.chain.push(region.heap(), me, self.limit(), message.cell(), hand_over) {
            Ok(()) => {}
            Err(PushError::Full) => return Err(PutError::Full),
            Err(PushError::Sealed) => return Err(PutError::ShutDown),
            Err(PushError::OutOfMemory(error)) => return Err(PutError::OutOfMemory(error)),
        }
        message.disown();
        self.control.not_empty.notify_one(region.bell()); // and its fence orders the commit before the flags
        if self.control.is_shut_down_immediately() {
            self.drain(region, me); // shut down while we put: nobody will get it
        }
        Ok(())
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
        let error = match self.try_get(region, me, message) {
            Err(TryGetError::Final(error)) => return Err(error),
            Err(error) => error,
            Ok(()) => return Ok(()),
        };
        let Some(patience) = patience else {
            return if error == TryGetError::Busy {
                self.get_from_busy(region, me, message)
            } else {
                Err(GetError::Empty)
            };
        };
        let attempt = || match self.try_get(region, me, message) {
            Err(TryGetError::Empty | TryGetError::Busy) => None,
            Err(TryGetError::Final(error)) => Some(Err(error)),
            Ok(()) => Some(Ok(())),
        };
        match self.control.not_empty.wait_until(region.bell(), patience, attempt, || !self.is_empty()) {
            Ok(result) => result,
            Err(WaitError::TimedOut) => Err(GetError::Empty),
            Err(WaitError::Interrupted) => Err(GetError::Interrupted),
        }
    }

    /// A `get` that may not wait, for a message that is being written: others behind it may be complete.
    #[cold]
    fn get_from_busy(&self, region: &Region, me: PeerId, message: &mut Message<'_>) -> Result<(), GetError> {
        let deadline = Instant::now() + WRITER_TIME;
        loop {
            for _ in 0..64 {
                spin_loop();
            }
            match self.try_get(region, me, message) {
                Ok(()) => return Ok(()),
                Err(TryGetError::Final(error)) => return Err(error),
                Err(TryGetError::Empty) => return Err(GetError::Empty),
                Err(TryGetError::Busy) if Instant::now() >= deadline => return Err(GetError::Empty),
                Err(TryGetError::Busy) => std::thread::yield_now(),
            }
        }
    }

    #[inline(always)]
    fn try_get(&self, region: &Region, me: PeerId, message: &mut Message<'_>) -> Result<(), TryGetError> {
        if self.control.is_shut_down_immediately() {
            return Err(TryGetError::Final(GetError::ShutDown));
        }
        match self.take(region, me, message) {
            Ok(()) => {
                self.control.not_full.notify_one(region.bell());
                Ok(())
            }
            Err(PopError::Ended) => Err(TryGetError::Final(GetError::ShutDown)),
            Err(PopError::Empty) => Err(TryGetError::Empty),
            Err(PopError::Busy) => Err(TryGetError::Busy),
            Err(PopError::Large(bytes)) => Err(TryGetError::Final(GetError::Large(bytes))),
        }
    }

    /// Takes the oldest message into `message` if that is prepared for it, whatever the queue's state, and tells nobody.
    #[inline(always)]
    pub(crate) fn take(&self, region: &Region, me: PeerId, message: &mut Message<'_>) -> Result<(), PopError> {
        let heap = region.heap();
        message.empty();
        let most = message.prepared_for();
        let result = self.chain.pop(heap, me, most, message.cell_mut(), |cell| {
            if !Meta::unpack(cell.meta).is_inline() {
                heap.hand_over(cell.payload[0] as u32, Some(me));
            }
        });
        if result.is_err() {
            message.disown();
        }
        result
    }

    /// Throws every message away, as done.
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
        self.chain.seal(region.heap());
        if immediate {
            // A put that has claimed its slot already sees the flag when it is done, or the drain sees its message.
            fence_after_read_modify_write();
            self.drain(region, me);
        }
        self.control.wake_all(immediate, region.bell());
    }

    /// Whether it was shut down.
    pub fn is_shut_down(&self) -> bool {
        self.control.is_shut_down()
    }

    /// Reports a task done that somebody got.
    ///
    /// # Errors
    /// [`TooManyDone`].
    pub fn task_done(&self, region: &Region) -> Result<(), TooManyDone> {
        self.control.task_done(|| self.chain.pushed(), region.bell())
    }

    /// Waits until every message that was put has been reported done.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn join(&self, region: &Region, patience: &Patience<'_>) -> Result<(), WaitError> {
        self.control.join(|| self.chain.pushed(), region.bell(), patience)
    }

    /// Messages that were put and not reported done.
    pub fn unfinished(&self) -> u64 {
        self.control.unfinished(|| self.chain.pushed())
    }

    /// How many messages there are.
    pub fn len(&self) -> u64 {
        self.chain.len()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.chain.is_empty()
    }

    /// Whether there is no place.
    pub fn is_full(&self) -> bool {
        self.len() >= self.limit()
    }

    /// The most messages that the queue holds; 0 or less for any number.
    pub fn maxsize(&self) -> i64 {
        self.control.maxsize()
    }

    /// Changes it. Messages beyond a smaller size stay; nobody puts until they are gone.
    pub fn set_maxsize(&self, maxsize: i64, region: &Region) {
        self.control.set_maxsize(maxsize, region.bell());
    }

    pub(crate) fn destroy(&self, heap: &Heap, me: PeerId) {
        self.chain.destroy(heap, me);
    }

    #[inline(always)]
    fn limit(&self) -> u64 {
        self.control.limit()
    }
}

/// Ready when a `get` would not wait.
impl Watchable for Queue {
    fn is_ready(&self) -> bool {
        !self.is_empty() || self.is_shut_down()
    }

    fn watch(&self) {
        self.control.not_empty.watch();
    }

    fn look(&self) {
        self.control.not_empty.look();
    }

    fn unwatch(&self, bell: &Bell) {
        self.control.not_empty.unwatch(bell, !self.is_empty());
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TryGetError {
    /// There is nothing yet: worth a wait.
    Empty,
    /// A producer is just writing: worth a moment even to those who may not wait.
    Busy,
    /// Waiting would not change it.
    Final(GetError),
}

const _: () = {
    assert!(size_of::<Queue>() == 512);
    assert!(core::mem::offset_of!(Queue, control) == 0);
};
