//! What all kinds of queues have in common: a bound, the flags of a shutdown, three events to wait on, a count of tasks.
//!
//! How many messages were ever put is known to the queue alone, so what counts tasks is told it.
#![forbid(unsafe_code)]

use crossbeam_utils::CachePadded;

use crate::error::{TooManyDone, WaitError};
use crate::event::{Bell, Event, Patience};
use crate::layout::ObjectHeader;
use crate::sync::{AtomicU64, Ordering};

/// It was shut down: nothing is put any more.
const SHUT_DOWN: u32 = 1;
/// Nothing is got any more either.
const IMMEDIATE: u32 = 2;

/// The start of every queue. All zero bytes are valid: no bound, open, no tasks.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Control {
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
    /// Tasks that were reported done.
    done: CachePadded<AtomicU64>,
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

    /// The most messages that the queue holds; 0 or less for any number.
    pub(crate) fn maxsize(&self) -> i64 {
        self.maxsize.load(Ordering::Relaxed) as i64
    }

    /// Changes it. Messages beyond a smaller size stay; nobody puts until they are gone.
    pub(crate) fn set_maxsize(&self, maxsize: i64, bell: &Bell) {
        // An exchange, since the wake below asks for a read-modify-write before it.
        self.maxsize.swap(maxsize as u64, Ordering::AcqRel);
        self.not_full.notify_all(bell);
    }

    /// The same as a number of messages.
    #[inline(always)]
    pub(crate) fn limit(&self) -> u64 {
        u64::try_from(self.maxsize()).ok().filter(|limit| *limit != 0).unwrap_or(u64::MAX)
    }

    /// Marks the queue as shut down. The caller wakes everybody ([`Control::wake_all`]) when that has taken effect.
    pub(crate) fn shut_down(&self, immediate: bool) {
        self.header.flags.fetch_or(SHUT_DOWN | if immediate { IMMEDIATE } else { 0 }, Ordering::AcqRel);
    }

    /// Whether nothing is put any more.
    #[inline(always)]
    pub(crate) fn is_shut_down(&self) -> bool {
        self.header.flags.load(Ordering::Acquire) & SHUT_DOWN != 0
    }

    /// Whether nothing is got any more either.
    #[inline(always)]
    pub(crate) fn is_shut_down_immediately(&self) -> bool {
        self.header.flags.load(Ordering::Acquire) & IMMEDIATE != 0
    }

    /// Wakes everybody after a shutdown; `immediate` ends `join`, too.
    pub(crate) fn wake_all(&self, immediate: bool, bell: &Bell) {
        if immediate {
            self.all_done.notify_all(bell);
        }
        self.not_empty.notify_all(bell);
        self.not_full.notify_all(bell);
    }

    /// Reports a task done, of the `put` ones that there were.
    ///
    /// # Errors
    /// [`TooManyDone`].
    pub(crate) fn task_done(&self, put: impl Fn() -> u64, bell: &Bell) -> Result<(), TooManyDone> {
        let mut done = self.done.load(Ordering::Relaxed);
        loop {
            let put = put();
            if done >= put {
                return Err(TooManyDone);
            }
            // Release: what was done comes before `join` returns.
            match self.done.compare_exchange_weak(done, done + 1, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => {
                    if done + 1 == put {
                        self.all_done.notify_all(bell);
                    }
                    return Ok(());
                }
                Err(now) => done = now,
            }
        }
    }

    /// Waits until every task has been reported done.
    ///
    /// # Errors
    /// [`WaitError`].
    pub(crate) fn join(&self, put: impl Fn() -> u64, bell: &Bell, patience: &Patience<'_>) -> Result<(), WaitError> {
        let all_done = || (self.unfinished(&put) == 0).then_some(());
        if all_done().is_some() {
            return Ok(());
        }
        self.all_done.wait_until(bell, patience, all_done, || false)
    }

    /// Tasks that were not reported done.
    pub(crate) fn unfinished(&self, put: impl Fn() -> u64) -> u64 {
        let done = self.done.load(Ordering::Acquire);
        put().saturating_sub(done)
    }
}

const _: () = {
    assert!(size_of::<Control>() == 256 && core::mem::offset_of!(Control, header) == 0);
    assert!(core::mem::offset_of!(Control, done) == 128);
};
