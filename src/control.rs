//! What all kinds of queues have in common: a bound, the flags of a shutdown, three events to wait on, a count of tasks.
//!
//! How many messages there are, and how many were ever put, each kind counts in its own way.
#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;

use crate::envelope::Returned;
use crate::error::{TooManyDone, WaitError};
use crate::event::{Bell, Event, Patience, Watchable};
use crate::layout::ObjectHeader;
use crate::object::Region;
use crate::ring::NO_LIMIT;
use crate::sync::{AtomicU64, Ordering};

/// It was shut down: nothing is put any more.
const SHUT_DOWN: u32 = 1;
/// Nothing is got any more either.
pub(crate) const IMMEDIATE: u32 = 2;
/// Messages may have come back: set and cleared in transactions only.
pub(crate) const RETURNED: u32 = 4;
/// Messages have to be acknowledged.
pub(crate) const REDELIVERS: u32 = 8;

/// In `done`: changes with every message that is thrown away and so done. Who completes what somebody did who was killed
/// sees by it whether the message had been counted.
const THROWN_AWAY: u64 = 1 << 63;

/// The start of every queue. All zero bytes are valid: no bound, open, no tasks.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Control {
    // What every `put` and `get` reads and hardly anybody writes is in one cache line.
    header: ObjectHeader,
    /// The most messages that the queue may hold, as an `i64`; 0 or less for any number.
    maxsize: AtomicU64,
    /// Somebody waits for a message.
    pub(crate) not_empty: Event,
    /// Somebody waits for a place.
    pub(crate) not_full: Event,
    /// Somebody waits for the last task.
    all_done: Event,
    /// What is not in everybody's way.
    pub(crate) rest: CachePadded<Rest>,
}

/// What of a queue neither `put` nor `get` need as a rule.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// Tasks that were reported done, and the flag [`THROWN_AWAY`].
    done: AtomicU64,
    /// Messages that were counted as put and that nobody gets, because their producers died. In transactions only.
    pub(crate) skipped: AtomicU64,
    /// The queue's own [`ObjectId`](crate::layout::ObjectId), packed.
    pub(crate) id: AtomicU64,
    /// Messages that came back.
    pub(crate) returned: Returned,
}

impl AsRef<ObjectHeader> for Control {
    fn as_ref(&self) -> &ObjectHeader {
        &self.header
    }
}

impl Control {
    /// Sets it up, before anybody else knows of it.
    pub(crate) fn initialize(&self, maxsize: i64) {
        self.maxsize.store(maxsize as u64, Ordering::Relaxed);
    }

    /// The most messages that the queue holds.
    #[inline(always)]
    pub(crate) fn limit(&self) -> u64 {
        let maxsize = self.maxsize.load(Ordering::Relaxed) as i64;
        u64::try_from(maxsize).ok().filter(|limit| *limit != 0).unwrap_or(NO_LIMIT)
    }

    /// What [`Control::throw_away`] asks for next time, from whoever is the only one that throws messages away.
    pub(crate) fn next_mark(&self) -> bool {
        self.rest.done.load(Ordering::Relaxed) & THROWN_AWAY == 0
    }

    /// Counts a message as done that was thrown away, of `put` that were put, if there is anything to be done: more may
    /// have been reported done than were got. Nothing happens the second time with the same mark.
    pub(crate) fn throw_away(&self, mark: bool, put: u64, bell: &Bell) {
        let mut seen = self.rest.done.load(Ordering::Relaxed);
        while (seen & THROWN_AWAY != 0) != mark {
            let done = seen & !THROWN_AWAY;
            let now = (done + u64::from(done < put)) | (seen ^ THROWN_AWAY) & THROWN_AWAY;
            match self.rest.done.compare_exchange_weak(seen, now, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) if done + 1 == put => return self.all_done.notify_all(bell),
                Ok(_) => return,
                Err(other) => seen = other,
            }
        }
    }

    /// Forgets those who died asleep, and lets everybody look again. Who watches is woken by the bell.
    pub(crate) fn recover(&self) {
        [&self.not_empty, &self.not_full, &self.all_done].into_iter().for_each(Event::recover);
    }

    /// Marks the queue as shut down. The caller wakes everybody ([`Control::wake_all`]) when that has taken effect.
    pub(crate) fn shut_down(&self, immediate: bool) {
        self.header.flags.fetch_or(SHUT_DOWN | if immediate { IMMEDIATE } else { 0 }, Ordering::AcqRel);
    }

    /// Whether nothing is got any more either.
    #[inline(always)]
    pub(crate) fn is_shut_down_immediately(&self) -> bool {
        self.flags() & IMMEDIATE != 0
    }

    /// All flags.
    #[inline(always)]
    pub(crate) fn flags(&self) -> u32 {
        self.header.flags.load(Ordering::Acquire)
    }

    /// Sets flags, in a transaction.
    pub(crate) fn set_flags(&self, flags: u32) {
        self.header.flags.fetch_or(flags, Ordering::AcqRel);
    }

    /// Clears flags, in a transaction.
    pub(crate) fn clear_flags(&self, flags: u32) {
        self.header.flags.fetch_and(!flags, Ordering::AcqRel);
    }

    /// Reports a task done, as a part of a transaction: for queues of which nobody does it otherwise. False if there is
    /// none.
    pub(crate) fn done_with(&self, put: u64, set: &mut dyn FnMut(&AtomicU64, u64)) -> bool {
        let done = self.rest.done.load(Ordering::Acquire);
        let is_one = done < self.got_by_somebody(put);
        if is_one {
            set(&self.rest.done, done + 1);
        }
        is_one
    }

    /// Wakes those who wait for the last task, if it was that.
    pub(crate) fn tell_done(&self, put: u64, bell: &Bell) {
        if self.rest.done.load(Ordering::Acquire) >= self.got_by_somebody(put) {
            self.all_done.notify_all(bell);
        }
    }

    /// Of the messages that were put, those that somebody gets.
    fn got_by_somebody(&self, put: u64) -> u64 {
        put.saturating_sub(self.rest.skipped.load(Ordering::Acquire))
    }

    /// Wakes everybody after a shutdown; `immediate` ends `join`, too.
    pub(crate) fn wake_all(&self, immediate: bool, bell: &Bell) {
        if immediate {
            self.all_done.notify_all(bell);
        }
        self.not_empty.notify_all(bell);
        self.not_full.notify_all(bell);
    }
}

/// What can be asked of any kind of queue.
pub trait AnyQueue {
    /// What they have in common.
    fn control(&self) -> &Control;

    /// How many messages there are.
    fn len(&self) -> u64;

    /// How many messages were ever put.
    fn put_in_all(&self) -> u64;

    /// Whether there is no message.
    #[inline]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether there is no place.
    #[inline]
    fn is_full(&self) -> bool {
        self.len() >= self.control().limit()
    }

    /// The most messages that the queue holds; 0 or less for any number.
    #[inline]
    fn maxsize(&self) -> i64 {
        self.control().maxsize.load(Ordering::Relaxed) as i64
    }

    /// Changes it. Messages beyond a smaller size stay; nobody puts until they are gone.
    fn set_maxsize(&self, maxsize: i64, region: &Region) {
        // An exchange, since the wake below asks for a read-modify-write before it.
        self.control().maxsize.swap(maxsize as u64, Ordering::AcqRel);
        self.control().not_full.notify_all(region.bell());
    }

    /// Whether it was shut down.
    #[inline]
    fn is_shut_down(&self) -> bool {
        self.control().header.flags.load(Ordering::Acquire) & SHUT_DOWN != 0
    }

    /// Whether a get would not wait.
    #[inline]
    fn has_something(&self) -> bool {
        !self.is_empty() || self.is_shut_down()
    }

    /// Reports a task done that somebody got.
    ///
    /// # Errors
    /// [`TooManyDone`].
    fn task_done(&self, region: &Region) -> Result<(), TooManyDone> {
        task_done(self, region)
    }

    /// Waits until every message that was put has been reported done.
    ///
    /// # Errors
    /// [`WaitError`].
    fn join(&self, region: &Region, patience: &Patience<'_>) -> Result<(), WaitError> {
        let all_done = || (self.unfinished() == 0).then_some(());
        if all_done().is_some() {
            return Ok(());
        }
        self.control().all_done.wait_until(region.bell(), patience, all_done, || false)
    }

    /// Messages that were put and not reported done.
    fn unfinished(&self) -> u64 {
        let done = self.control().rest.done.load(Ordering::Acquire) & !THROWN_AWAY;
        self.control().got_by_somebody(self.put_in_all()).saturating_sub(done)
    }
}

/// A queue as a producer waits for it: ready when a put would not wait.
#[derive(Debug)]
pub struct ForPlace<'q, Q>(pub &'q Q);

impl<Q: AnyQueue> Watchable for ForPlace<'_, Q> {
    fn is_ready(&self) -> bool {
        !self.0.is_full() || self.0.is_shut_down()
    }

    fn look(&self) -> bool {
        self.0.control().not_full.watch();
        self.is_ready()
    }
}

/// A queue as [`AnyQueue::join`] waits for it: ready when all that was put has been reported done.
#[derive(Debug)]
pub struct ForDone<'q, Q>(pub &'q Q);

impl<Q: AnyQueue> Watchable for ForDone<'_, Q> {
    fn is_ready(&self) -> bool {
        self.0.unfinished() == 0
    }

    fn look(&self) -> bool {
        self.0.control().all_done.watch();
        self.is_ready()
    }
}

/// [`AnyQueue::task_done`] of a queue whose messages need not be acknowledged.
pub(crate) fn task_done(queue: &(impl AnyQueue + ?Sized), region: &Region) -> Result<(), TooManyDone> {
    let control @ Control { rest, all_done, .. } = queue.control();
    let mut seen = rest.done.load(Ordering::Relaxed);
    loop {
        let put = control.got_by_somebody(queue.put_in_all());
        let now_done = (seen & !THROWN_AWAY) + 1;
        if now_done > put {
            return Err(TooManyDone);
        }
        // Release: what was done comes before `join` returns.
        match rest.done.compare_exchange_weak(seen, seen.wrapping_add(1), Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => {
                if now_done == put {
                    all_done.notify_all(region.bell());
                }
                return Ok(());
            }
            Err(now) => seen = now,
        }
    }
}

const _: () = {
    assert!(size_of::<Control>() == 256 && core::mem::offset_of!(Control, header) == 0);
    assert!(core::mem::offset_of!(Control, rest) == 128);
};
