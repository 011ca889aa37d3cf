//! A flag to wait for: what `threading.Event` is.
//!
//! ```text
//!   31                                  1     0
//!  +-------------------------------------+-------+
//!  | how often it was set                |  SET  |
//!  +-------------------------------------+-------+
//! ```
//!
//! Waiters compare the count, so whoever waited when it was set goes on, even if it was cleared at once.
#![forbid(unsafe_code)]

use crate::error::WaitError;
use crate::event::{Bell, Event, Patience, Watchable};
use crate::sync::{AtomicU32, Ordering, essential};

const SET: u32 = 1;
const ONE_TIME: u32 = 2;

/// A flag. All zero bytes are a valid one that is not set.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Flag {
    word: AtomicU32,
    changed: Event,
}

impl Flag {
    /// Whether it is set.
    pub fn is_set(&self) -> bool {
        self.now().is_set()
    }

    /// Sets it and wakes everybody who waits.
    pub fn set(&self, bell: &Bell) {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            // When it is set already this changes nothing, but a `clear` after it sees what came before it.
            let next = if seen & SET == 0 { seen.wrapping_add(ONE_TIME) | SET } else { seen };
            // SYNC POINT: AcqRel, here and in `clear`: each sees what came before all earlier ones, as with a lock.
            let ordering = essential!(FlagSet: Ordering::AcqRel);
            match self.word.compare_exchange(seen, next, ordering, Ordering::Relaxed) {
                Ok(_) if next == seen => return,
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        self.changed.notify_all(bell);
    }

    /// Takes it back.
    pub fn clear(&self) {
        self.word.fetch_and(!SET, essential!(FlagCleared: Ordering::AcqRel));
    }

    /// Notes what the flag is now: the start of a wait.
    pub fn now(&self) -> Seen {
        // SYNC POINT: Acquire sees what came before the `set` or `clear` that made it what it is.
        Seen(self.word.load(essential!(FlagSeen: Ordering::Acquire)))
    }

    /// Forgets those who died waiting. The word has been changed by a single step, or not.
    pub fn recover(&self) {
        self.changed.recover();
    }

    /// Waits until it is set, or has been since `seen` was noted.
    ///
    /// # Errors
    /// [`WaitError`]; the wait may go on with the same `seen`.
    pub fn wait(&self, seen: Seen, bell: &Bell, patience: &Patience<'_>) -> Result<(), WaitError> {
        let attempt = || self.ends_wait(seen).then_some(());
        if attempt().is_some() {
            return Ok(());
        }
        self.changed.wait_until(bell, patience, attempt, || false)
    }

    /// Whether a wait that began when `seen` was noted is over.
    fn ends_wait(&self, seen: Seen) -> bool {
        let now = self.now();
        now.is_set() || essential!(SetSince: now.was_set_since(seen))
    }

    /// The flag as a wait sees it that begins now: ready when it is set, or was, even if it was cleared at once.
    pub fn from_now(&self) -> FlagFromNow<'_> {
        FlagFromNow { flag: self, seen: self.now() }
    }

    /// How often it was set, modulo 2^31.
    pub fn times_set(&self) -> u32 {
        self.now().0 / ONE_TIME
    }

    /// The flag as a wait sees it that began when it had been set so often.
    pub fn from_then(&self, times_set: u32) -> FlagFromNow<'_> {
        FlagFromNow { flag: self, seen: Seen(times_set.wrapping_mul(ONE_TIME)) }
    }
}

/// What a flag was at some time.
#[derive(Clone, Copy, Debug)]
pub struct Seen(u32);

impl Seen {
    fn is_set(self) -> bool {
        self.0 & SET != 0
    }

    /// Whether it was set after `then`. Only 2^31 sets between the two would be overlooked.
    fn was_set_since(self, then: Seen) -> bool {
        (self.0 ^ then.0) & !SET != 0
    }
}

/// Ready when it is set.
impl Watchable for Flag {
    fn is_ready(&self) -> bool {
        self.is_set()
    }

    fn look(&self) -> bool {
        self.changed.watch();
        self.is_ready()
    }
}

/// See [`Flag::from_now`].
#[derive(Debug)]
pub struct FlagFromNow<'a> {
    flag: &'a Flag,
    seen: Seen,
}

impl Watchable for FlagFromNow<'_> {
    fn is_ready(&self) -> bool {
        self.flag.ends_wait(self.seen)
    }

    fn look(&self) -> bool {
        self.flag.changed.watch();
        self.is_ready()
    }
}
