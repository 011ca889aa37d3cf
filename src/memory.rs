//! Memory for numbers and bytes that everybody sees: what `Value`, `Array` and `SharedMemory` are made of.
//!
//! ```text
//!   0        8         16       24                          120   128
//!  +--------+---------+--------+---------------------------+-----+---------- - -
//!  | header | meaning | length | those who wait, 8 × 12    |  0  | the bytes
//!  +--------+---------+--------+---------------------------+-----+---------- - -
//! ```
//!
//! Elements are accessed by atomic instructions of the machine ([`Element`]), but for those who asked for the address of
//! the bytes. A thread may wait until one is no longer what it expects ([`Changes`]), as with C++20's `atomic::wait`.
//!
//! ```text
//!   waiter                                            notifier
//!   ------                                            --------
//!   sleepers += 1                                     change an element
//!   seen = notifications                              fence            ← SYNC POINT: store before load
//!   fence            ← SYNC POINT: store before load  sleepers = 0 ?   → done: no system call
//!   changed ?        → leave                          notifications += 1, futex wake n
//!   woken in vain ?  → wake everybody else, once for each notification
//!   futex wait while notifications = seen
//!   again
//! ```
//!
//! Those who sleep on one word may wait for different things: several elements share it, and each waiter expects what
//! it likes. So whoever is woken and finds nothing changed may have had the wake of another, and lets everybody look.
//! Where all wait for the same, as is usual, a notification wakes just as many as it says.
#![forbid(unsafe_code)]

use crate::error::WaitError;
use crate::event::{Patience, Sleepers};
#[cfg(not(loom))]
use crate::sync::{AtomicU8, AtomicU16};
use crate::sync::{AtomicU32, AtomicU64, FutexWord, Ordering, essential, fence};

/// So many elements after one another have their waiters apart.
const PLACES: usize = 8;

/// What comes before the bytes. All zero bytes are a valid one, of no bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Memory {
    /// What the bytes mean; the bindings' business.
    meaning: AtomicU32,
    /// Bytes of an element: 1, 2, 4 or 8; 0 if the bytes are none.
    width: AtomicU32,
    length: AtomicU64,
    changes: [Changes; PLACES],
}

impl Memory {
    /// Sets it up, before anybody else knows of it.
    pub fn initialize(&self, format: Format, length: u64) {
        self.meaning.store(format.meaning, Ordering::Relaxed); // Relaxed: the id that others get publishes all three
        self.width.store(format.width, Ordering::Relaxed);
        self.length.store(length, Ordering::Relaxed);
    }

    /// What its bytes are.
    pub fn format(&self) -> Format {
        Format { meaning: self.meaning.load(Ordering::Relaxed), width: self.width.load(Ordering::Relaxed) }
    }

    /// How many bytes it was made with.
    pub fn length(&self) -> u64 {
        self.length.load(Ordering::Relaxed)
    }

    /// Forgets those who died waiting, and has the others look again.
    pub fn recover(&self) {
        self.changes.iter().for_each(Changes::recover);
    }

    /// Those who wait for a change of the element at that place, and maybe of others.
    pub fn changes(&self, place: usize) -> &Changes {
        &self.changes[place % PLACES]
    }
}

/// What the bytes of a memory are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// What they mean; the bindings' business.
    pub meaning: u32,
    /// Bytes of an element: 1, 2, 4 or 8; 0 if the memory is not accessed by elements.
    pub width: u32,
}

/// Those who wait for a change. All zero bytes are valid: nobody.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Changes {
    /// The futex word: grows by one with every notification that somebody may need.
    notifications: FutexWord,
    /// Those in [`Changes::wait_until`].
    sleepers: Sleepers,
    /// The notification that everybody was woken for, since it had woken somebody in vain.
    passed_on: AtomicU32,
}

impl Changes {
    /// Wakes at least `count` of those whose `attempt` gives something now, if there are as many.
    pub fn notify(&self, count: u32) {
        // SYNC POINT: the change before `sleepers`. A full fence: nobody knows by what instruction the change was made.
        essential!(ChangeBeforeSleepers: fence(Ordering::SeqCst));
        if self.sleepers.count() != 0 {
            self.notifications.fetch_add(1, Ordering::Release); // Release: who sees the number sees the change
            self.notifications.wake(i32::try_from(count).unwrap_or(i32::MAX));
        }
    }

    /// Calls `attempt` until it gives something, sleeping in between.
    ///
    /// # Errors
    /// [`WaitError`]; `attempt` has been called once more after the last sleep.
    pub fn wait_until<T>(
        &self,
        patience: &Patience<'_>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        if let Some(value) = patience.spin(&mut attempt) {
            return Ok(value);
        }
        let mut epoch = self.sleepers.enter();
        let mut ended = None;
        let result = loop {
            let seen = self.notifications.load(Ordering::Acquire); // Acquire: who sees a new epoch's number sees the epoch
            self.sleepers.stay(&mut epoch);
            essential!(SleepersBeforeChange: fence(Ordering::SeqCst)); // SYNC POINT: `sleepers` before the condition
            if let Some(value) = attempt() {
                break Ok(value);
            }
            match ended {
                None => {} // it has not slept yet
                Some(Ok(())) => self.pass_on(seen),
                Some(Err(error)) => {
                    self.pass_on(seen);
                    break Err(error);
                }
            }
            ended = Some(patience.sleep(&self.notifications, seen));
        };
        self.sleepers.leave(epoch);
        result
    }

    /// Forgets the sleepers that died, and wakes the others.
    pub fn recover(&self) {
        self.sleepers.forget();
        self.notifications.fetch_add(1, Ordering::Release); // Release: who sees the number sees the epoch
        self.notifications.wake(i32::MAX);
    }

    /// Lets everybody look, unless somebody has seen to that since the notification.
    fn pass_on(&self, notification: u32) {
        // Relaxed: two that both wake everybody cost no more than a wake.
        if essential!(PassedOn: self.passed_on.swap(notification, Ordering::Relaxed) != notification) {
            self.notifications.wake(i32::MAX);
        }
    }
}

/// A number in shared memory that is only accessed by atomic instructions of the machine.
///
/// All of them are sequentially consistent, as users of Python expect who never heard of anything else.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug)]
pub enum Element<'m> {
    /// Of one byte.
    One(&'m AtomicU8),
    /// Of two bytes.
    Two(&'m AtomicU16),
    /// Of four bytes.
    Four(&'m AtomicU32),
    /// Of eight bytes.
    Eight(&'m AtomicU64),
}

/// Does the same with the word of each width.
#[cfg(not(loom))]
macro_rules! with_word {
    ($element:expr, $word:ident => $body:expr) => {
        match $element {
            Element::One($word) => $body,
            Element::Two($word) => $body,
            Element::Four($word) => $body,
            Element::Eight($word) => $body,
        }
    };
}

/// Numbers are given as bits, of which only those count that the element has.
#[cfg(not(loom))]
impl Element<'_> {
    /// What it is now.
    #[inline]
    pub fn load(self) -> u64 {
        with_word!(self, word => word.load(Ordering::SeqCst) as _)
    }

    /// Makes it `bits`.
    #[inline]
    pub fn store(self, bits: u64) {
        with_word!(self, word => word.store(bits as _, Ordering::SeqCst));
    }

    /// Makes it `bits` and gives what it was.
    #[inline]
    pub fn swap(self, bits: u64) -> u64 {
        with_word!(self, word => word.swap(bits as _, Ordering::SeqCst) as _)
    }

    /// Makes it `bits` if it is `expected`; whether it was.
    #[inline]
    pub fn compare_exchange(self, expected: u64, bits: u64) -> bool {
        with_word!(
            self,
            word => word.compare_exchange(expected as _, bits as _, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        )
    }

    /// Makes what `change` makes of it, in one step, and gives what it was.
    ///
    /// # Errors
    /// Those of `change`; it stays as it is then.
    #[inline]
    pub fn update<E>(self, change: impl Fn(u64) -> Result<u64, E>) -> Result<u64, E> {
        loop {
            let seen = self.load();
            if self.compare_exchange(seen, change(seen)?) {
                return Ok(seen);
            }
        }
    }
}
