//! A semaphore: a number that may be taken from while it is positive.
#![forbid(unsafe_code)]

use crate::error::{TooManyReleases, WaitError};
use crate::event::{Bell, Event, Patience, Watchable};
use crate::sync::{AtomicU64, Ordering, essential};

/// A semaphore. All zero bytes are a valid one with nothing to take and no bound.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Semaphore {
    value: AtomicU64,
    /// The most that `value` may be, plus one; 0 if there is no bound.
    bound: AtomicU64,
    more: Event,
}

impl Semaphore {
    /// The largest value of any semaphore.
    pub const MAX: u64 = i64::MAX as u64;

    /// Sets it up, before anybody else knows of it. `value` is at most [`Semaphore::MAX`].
    pub fn initialize(&self, value: u64, bounded: bool) {
        self.value.store(value, Ordering::Relaxed); // Relaxed: the id that others get publishes it
        self.bound.store(if bounded { value + 1 } else { 0 }, Ordering::Relaxed);
    }

    /// Takes one; false if there is none.
    pub fn try_acquire(&self) -> bool {
        let mut seen = self.value.load(Ordering::Relaxed);
        while seen > 0 {
            // SYNC POINT: Acquire sees what came before the Release in `release`.
            let acquire = essential!(SemaphoreAcquired: Ordering::Acquire);
            match self.value.compare_exchange(seen, seen - 1, acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Takes one, waiting for it.
    ///
    /// # Errors
    /// [`WaitError`]; nothing was taken then.
    pub fn acquire(&self, bell: &Bell, patience: &Patience<'_>) -> Result<(), WaitError> {
        let attempt = || self.try_acquire().then_some(());
        if attempt().is_some() {
            return Ok(());
        }
        self.more.wait_until(bell, patience, attempt, || self.value() > 0)
    }

    /// Gives `count` back.
    ///
    /// # Errors
    /// [`TooManyReleases`] if there would be more than its bound; nothing was given back then.
    pub fn release(&self, count: u64, bell: &Bell) -> Result<(), TooManyReleases> {
        let most = self.bound().unwrap_or(Self::MAX);
        let mut seen = self.value.load(Ordering::Relaxed);
        loop {
            let next = seen.checked_add(count).filter(|next| *next <= most).ok_or(TooManyReleases)?;
            // SYNC POINT: Release publishes what came before to the next Acquire in `try_acquire`.
            let release = essential!(SemaphoreReleased: Ordering::Release);
            match self.value.compare_exchange(seen, next, release, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        self.more.notify_one(bell); // who wakes wakes the next one while there is more
        Ok(())
    }

    /// How many could be taken now.
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }

    /// The most that its value may be, if there is a bound.
    pub fn bound(&self) -> Option<u64> {
        self.bound.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// Ready when there is something to take.
impl Watchable for Semaphore {
    fn is_ready(&self) -> bool {
        self.value() > 0
    }

    fn look(&self) -> bool {
        self.more.watch();
        self.is_ready()
    }
}
