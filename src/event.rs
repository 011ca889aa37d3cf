//! An event count: sleep until a condition may hold, at no cost to those who make it hold while nobody sleeps.
//!
//! ```text
//!   waiter                                     notifier
//!   ------                                     --------
//!   sleepers += 1                              make the condition hold        (a read-modify-write)
//!   seen = sequence                            fence                          ← SYNC POINT: store before load
//!   clear WAKING                               sleepers = 0 ?  → done: no system call
//!   fence   ← SYNC POINT: store before load    WAKING set ?    → done: a wake is under way
//!   condition holds ?  → leave                 set WAKING, sequence += 1, futex wake
//!   futex wait while sequence = seen
//!   again
//! ```
//!
//! The two fences are the store-buffering pattern: either the notifier sees the sleeper, or the sleeper sees
//! the condition. `tests/loom` shows that without either of them a wake can be lost.
//!
//! WAKING keeps a producer that runs ahead from making a system call a message while the consumer that it
//! woke is still on its way to a processor. Whoever wakes clears it *before* looking again, and passes the
//! wake on if there is more than it took, so no wake is owed to anybody when WAKING is clear.
//!
//! Who waits for several things at once ([`wait_any`]) can sleep on one word only: the region's [`Bell`]. It counts as a
//! sleeper of each event, and as a watcher too, so that whoever wakes a sleeper there also rings the bell.

use core::fmt::Debug;
use core::ops::Deref;
#[cfg(not(loom))]
use core::time::Duration;
#[cfg(not(loom))]
use std::time::Instant;

use crate::error::WaitError;
use crate::sync::{AtomicU32, FutexWord, Ordering, essential, fence, fence_after_read_modify_write};
#[cfg(not(loom))]
use crate::sync::{Woken, spin_loop};

/// Set from the futex wake until the woken thread looks again.
const WAKING: u32 = 1 << 31;

/// A place to sleep until a condition may have come true. All zero bytes are a valid, idle event.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Event {
    /// The futex word: grows by one with every wake.
    sequence: FutexWord,
    /// How many threads are in [`Event::wait_until`] or watch the event, and the flag [`WAKING`].
    sleepers: AtomicU32,
    /// How many of them watch it, and sleep on the bell.
    watchers: AtomicU32,
}

impl Event {
    /// Wakes one sleeper, if there is one and no wake is under way.
    ///
    /// The caller has just made the condition hold by an atomic read-modify-write.
    #[inline(always)]
    pub fn notify_one(&self, bell: &Bell) {
        essential!(NotifyFence: fence_after_read_modify_write()); // SYNC POINT: the condition before `sleepers`
        let sleepers = self.sleepers.load(Ordering::Relaxed); // Relaxed: the fence orders it
        if sleepers != 0 {
            self.wake_one(sleepers, bell);
        }
    }

    #[cold]
    fn wake_one(&self, sleepers: u32, bell: &Bell) {
        if sleepers & WAKING != 0 {
            return;
        }
        // SYNC POINT: Acquire sees in `watchers` whoever is counted as one. The fences see to it that whoever clears
        // WAKING after this sees the condition that we made hold.
        let acquire = essential!(WatchersCounted: Ordering::Acquire);
        if self.sleepers.fetch_or(WAKING, acquire) & WAKING == 0 {
            // SYNC POINT: Release publishes WAKING to the Acquire in `wait_until`.
            self.sequence.fetch_add(1, essential!(Grown: Ordering::Release));
            self.sequence.wake(1);
            self.ring(bell);
        }
    }

    /// Wakes every sleeper. The caller has just changed something by an atomic read-modify-write.
    pub fn notify_all(&self, bell: &Bell) {
        essential!(NotifyFence: fence_after_read_modify_write()); // SYNC POINT: the condition before `sleepers`
        if self.sleepers.load(Ordering::Relaxed) & !WAKING != 0 {
            self.sequence.fetch_add(1, Ordering::Relaxed); // Relaxed: the fences order it
            self.sequence.wake(i32::MAX);
            self.ring(bell);
        }
    }

    /// Rings the bell if somebody watches.
    fn ring(&self, bell: &Bell) {
        if self.watchers.load(Ordering::Relaxed) != 0 {
            bell.ring();
        }
    }

    /// Calls `attempt` until it gives something, sleeping in between.
    ///
    /// After a success, `more` says whether another sleeper would succeed too; the wake is passed on then.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`] at the deadline, [`WaitError::Interrupted`] when `patience`'s thread got a
    /// signal or was interrupted. `attempt` has been called once more after the last sleep in either case.
    pub fn wait_until<T>(
        &self,
        bell: &Bell,
        patience: &Patience<'_>,
        mut attempt: impl FnMut() -> Option<T>,
        more: impl Fn() -> bool,
    ) -> Result<T, WaitError> {
        if let Some(value) = patience.spin(&mut attempt) {
            return Ok(value);
        }
        self.sleepers.fetch_add(1, Ordering::Relaxed); // Relaxed: the fence below orders it
        let mut ended = Ok(());
        let result = loop {
            // SYNC POINT: Acquire, before the look at WAKING. Otherwise the wake that sets it may be one that we have
            // seen already.
            let seen = self.sequence.load(essential!(Seen: Ordering::Acquire));
            self.look();
            if let Some(value) = attempt() {
                break Ok(value);
            }
            if let Err(error) = ended {
                break Err(error);
            }
            ended = patience.sleep(&self.sequence, seen);
        };
        self.sleepers.fetch_sub(1, Ordering::Relaxed); // Relaxed: too large a count only costs a wake
        if result.is_ok() && essential!(PassOn: more()) {
            self.notify_one(bell);
        }
        result
    }

    /// As [`Event::wait_until`], for what may need more than a wait has, such as a lock that is held or the GIL: when
    /// `attempt` says so, the caller gets a [`Turn`]. `ready` says whether it is worth an attempt.
    ///
    /// # Errors
    /// [`WaitError`].
    pub fn wait_for<'a, T, R: Fn() -> bool>(
        &'a self,
        bell: &'a Bell,
        patience: &Patience<'_>,
        mut attempt: impl FnMut() -> Attempt<T>,
        ready: R,
    ) -> Result<Result<T, Turn<'a, R>>, WaitError> {
        let attempt = || match attempt() {
            Attempt::Done(value) => Some(Some(value)),
            Attempt::NotYet => None,
            Attempt::Leave => Some(None),
        };
        let result = self.wait_until(bell, patience, attempt, || false)?;
        let turn = Turn { event: self, bell, ready }; // dropped at once if it was done
        Ok(result.ok_or(turn))
    }

    /// Comes before each look at the condition: the wake that was under way has arrived.
    pub fn look(&self) {
        if self.sleepers.load(Ordering::Relaxed) & WAKING != 0 {
            self.sleepers.fetch_and(!WAKING, Ordering::Relaxed); // Relaxed: the fence orders it
        }
        essential!(WaitFence: fence(Ordering::SeqCst)); // SYNC POINT: `sleepers` and `watchers` before the condition
    }

    /// Counts the caller as somebody who sleeps on the bell.
    pub fn watch(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        // SYNC POINT: Release publishes `watchers` to the Acquire in `wake_one`.
        self.sleepers.fetch_add(1, essential!(Watched: Ordering::Release));
    }

    /// The end of [`Event::watch`].
    ///
    /// There is no wake to pass on: a watcher sleeps on the bell, so it takes none from those who sleep here.
    pub fn unwatch(&self) {
        self.sleepers.fetch_sub(1, Ordering::Relaxed); // Relaxed, both: too large a count only costs a wake
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many threads wait here.
    pub fn waiting(&self) -> u32 {
        self.sleepers.load(Ordering::Relaxed) & !WAKING
    }
}

/// What became of an attempt inside a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt<T> {
    /// It was successful, or waiting does not change anything.
    Done(T),
    /// It will be worth another one when the event has happened.
    NotYet,
    /// It is to be made outside of the wait.
    Leave,
}

/// The right to act on a wake. When it is dropped and there is something left, be it because there was more or because
/// its owner failed, the wake is passed on.
#[derive(Debug)]
#[must_use = "the wake is passed on when this is dropped"]
pub struct Turn<'a, R: Fn() -> bool> {
    event: &'a Event,
    bell: &'a Bell,
    ready: R,
}

impl<R: Fn() -> bool> Drop for Turn<'_, R> {
    fn drop(&mut self) {
        if essential!(TurnPassesOn: (self.ready)()) {
            self.event.notify_one(self.bell);
        }
    }
}

/// The word that those sleep on who wait for several things at once; one for all of a region.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Bell {
    /// The futex word: how often it rang.
    rings: FutexWord,
}

impl Bell {
    /// Wakes everybody who sleeps on it.
    #[cold]
    pub fn ring(&self) {
        // SYNC POINT: Release publishes WAKING to the Acquire in `wait_any`.
        self.rings.fetch_add(1, essential!(BellRung: Ordering::Release));
        self.rings.wake(i32::MAX);
    }
}

/// What can be waited for together with others.
pub trait Watchable {
    /// Whether a wait for it alone would end now.
    fn is_ready(&self) -> bool;

    /// Lets the bell ring from now on when it may have become ready.
    fn watch(&self);

    /// Whether it is ready, after `watch`. If it is not, the bell rings when it may have become ready.
    fn look(&self) -> bool;

    /// The end of `watch`.
    fn unwatch(&self);
}

/// What leads to such a thing.
impl<P: Deref<Target: Watchable>> Watchable for P {
    fn is_ready(&self) -> bool {
        (**self).is_ready()
    }

    fn watch(&self) {
        (**self).watch();
    }

    fn look(&self) -> bool {
        (**self).look()
    }

    fn unwatch(&self) {
        (**self).unwatch();
    }
}

/// Waits until one of the things is ready, and gives its place. Nothing is taken from any of them.
///
/// # Errors
/// [`WaitError`].
pub fn wait_any(things: &[&dyn Watchable], bell: &Bell, patience: &Patience<'_>) -> Result<usize, WaitError> {
    let mut ready = || things.iter().position(|thing| thing.is_ready());
    if let Some(place) = ready().or_else(|| patience.spin(&mut ready)) {
        return Ok(place);
    }
    things.iter().for_each(|thing| thing.watch());
    let mut ended = Ok(());
    let result = loop {
        // SYNC POINT: Acquire, before the looks, as in `wait_until`.
        let seen = bell.rings.load(essential!(BellSeen: Ordering::Acquire));
        if let Some(place) = things.iter().position(|thing| thing.look()) {
            break Ok(place);
        }
        if let Err(error) = ended {
            break Err(error);
        }
        ended = patience.sleep(&bell.rings, seen);
    };
    things.iter().for_each(|thing| thing.unwatch());
    result
}

/// Somebody who knows of the others that take part. One who dies wakes nobody any more, so those who sleep look out.
pub trait Lookout: Debug {
    /// Looks for participants that died, and puts right what they left.
    fn look_out(&self);
}

/// How often a thread looks out that waits, however often it is woken meanwhile.
#[cfg(not(loom))]
pub const LOOKOUT_SLICE: Duration = Duration::from_millis(50);

/// How long a thread is willing to wait, and what may disturb it.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    #[cfg(not(loom))]
    deadline: Option<Instant>,
    #[cfg(not(loom))]
    spin: Duration,
    #[cfg(not(loom))]
    parker: &'a Parker,
    /// When a sleep ends as if a signal had arrived.
    #[cfg(not(loom))]
    slice_end: Option<Instant>,
    #[cfg(not(loom))]
    lookout: Option<&'a dyn Lookout>,
    #[cfg(loom)]
    sleeps_once: bool,
    #[cfg(loom)]
    lifetime: core::marker::PhantomData<&'a ()>,
}

#[cfg(not(loom))]
impl<'a> Patience<'a> {
    /// Waits until `deadline` (for ever if there is none), at first by spinning for `spin`.
    pub fn new(deadline: Option<Instant>, spin: Duration, parker: &'a Parker) -> Self {
        Patience { deadline, spin, parker, slice_end: None, lookout: None }
    }

    /// The same, but when `slice`, which begins now, is over, a sleep ends as if a signal had arrived: for a thread on
    /// which one may arrive just before it sleeps.
    #[must_use]
    pub fn in_slices(self, slice: Duration) -> Self {
        Patience { slice_end: Instant::now().checked_add(slice), ..self }
    }

    /// The same, but whoever sleeps looks out now and then, and looks again at what it waits for, as if woken.
    #[must_use]
    pub fn watching(self, lookout: &'a dyn Lookout) -> Self {
        Patience { lookout: Some(lookout), ..self }
    }

    /// Repeats `attempt` for the spinning time: a reply that is on its way costs no system call.
    ///
    /// At first it keeps its processor, then it offers it to others between two looks, so that on a machine with more
    /// threads than processors the one that shall reply gets to run.
    pub(crate) fn spin<T>(&self, attempt: &mut impl FnMut() -> Option<T>) -> Option<T> {
        /// Looks between two readings of the clock, which cost about as much as the looks.
        const LOOKS: u32 = 8;
        const KEEPING: Duration = Duration::from_micros(1);
        let started = Instant::now();
        loop {
            for _ in 0..LOOKS {
                if let Some(value) = attempt() {
                    return Some(value);
                }
                spin_loop();
            }
            let now = Instant::now();
            let spent = now - started;
            if spent >= self.spin || self.deadline.is_some_and(|deadline| now >= deadline) {
                return None;
            }
            if spent >= KEEPING {
                std::thread::yield_now();
            }
        }
    }

    /// Sleeps on `word` while it holds `expected`.
    pub(crate) fn sleep(&self, word: &FutexWord, expected: u32) -> Result<(), WaitError> {
        let now = Instant::now();
        let left = |end: Option<Instant>| end.map_or(Duration::MAX, |end| end.saturating_duration_since(now));
        let (left, slice) = (left(self.deadline), left(self.slice_end));
        if left.is_zero() {
            return Err(WaitError::TimedOut);
        }
        let lookout = self.lookout.map_or(Duration::MAX, |_| self.parker.until_lookout(now));
        let timeout = left.min(slice).min(lookout);
        let slept = self.parker.sleep(word, expected, (timeout != Duration::MAX).then_some(timeout));
        if slept != Err(WaitError::TimedOut) || timeout == left {
            return slept;
        }
        if timeout == lookout {
            self.lookout.inspect(|lookout| lookout.look_out());
            self.parker.has_looked_out();
        }
        if timeout == slice { Err(WaitError::Interrupted) } else { Ok(()) }
    }
}

/// In a model nobody spins and no time passes: a lost wake shows as a deadlock.
#[cfg(loom)]
impl Patience<'_> {
    /// Waits for ever.
    pub fn endless() -> Self {
        Patience { sleeps_once: false, lifetime: core::marker::PhantomData }
    }

    /// Gives up at the very moment of the first wake.
    pub fn until_woken() -> Self {
        Patience { sleeps_once: true, ..Self::endless() }
    }

    pub(crate) fn spin<T>(&self, _attempt: &mut impl FnMut() -> Option<T>) -> Option<T> {
        None
    }

    pub(crate) fn sleep(&self, word: &FutexWord, expected: u32) -> Result<(), WaitError> {
        word.wait(expected);
        if self.sleeps_once { Err(WaitError::TimedOut) } else { Ok(()) }
    }
}

#[cfg(not(loom))]
pub use parker::Parker;

#[cfg(not(loom))]
mod parker {
    //! `unsafe` here: [`Parker::interrupt`] touches the word that its thread sleeps on. The thread publishes the
    //! address under the parker's mutex before it sleeps and takes it back under the same mutex before it
    //! returns, and it borrows the word all that time.
    #![expect(unsafe_code, reason = "a word is woken through a pointer that its sleeper lent")]

    use core::time::Duration;
    use std::time::Instant;

    use parking_lot::Mutex;

    use super::{FutexWord, LOOKOUT_SLICE, WaitError, Woken};
    use crate::sync::{AtomicBool, Ordering};

    /// One thread's handle to be disturbed by: whatever it sleeps on, [`Parker::interrupt`] ends the sleep.
    #[derive(Debug, Default)]
    pub struct Parker {
        interrupted: AtomicBool,
        asleep_on: Mutex<Lent>,
        /// When the thread looks out next; only its own business.
        next_lookout: Mutex<Option<Instant>>,
    }

    /// The word that the thread sleeps on now.
    #[derive(Debug, Default)]
    struct Lent(Option<*const FutexWord>);

    // SAFETY: the pointer is only followed while its owner is known to lend it; see `Parker::interrupt`.
    unsafe impl Send for Lent {}

    impl Parker {
        /// Ends the thread's sleep, or its next one: each returns [`WaitError::Interrupted`] until
        /// [`Parker::take_interrupt`] was called.
        pub fn interrupt(&self) {
            self.interrupted.store(true, Ordering::SeqCst);
            // The thread may have looked at `interrupted` already and not be asleep yet, so that a wake is lost
            // on it. It lends the word through all of that, so wake until it has taken the word back.
            loop {
                let lent = self.asleep_on.lock();
                let Some(word) = lent.0 else { return };
                // SAFETY: the owner took no word back yet, for that needs the mutex that we hold, so it still
                // borrows it.
                unsafe { &*word }.wake(i32::MAX);
                drop(lent);
                std::thread::yield_now();
            }
        }

        /// Whether the thread was interrupted since the last call.
        pub fn take_interrupt(&self) -> bool {
            self.interrupted.swap(false, Ordering::SeqCst)
        }

        /// How long the thread may sleep until it looks out.
        pub(super) fn until_lookout(&self, now: Instant) -> Duration {
            self.next_lookout.lock().get_or_insert(now + LOOKOUT_SLICE).saturating_duration_since(now)
        }

        /// The thread has just looked out.
        pub(super) fn has_looked_out(&self) {
            *self.next_lookout.lock() = Some(Instant::now() + LOOKOUT_SLICE);
        }

        pub(super) fn sleep(
            &self,
            word: &FutexWord,
            expected: u32,
            timeout: Option<Duration>,
        ) -> Result<(), WaitError> {
            self.asleep_on.lock().0 = Some(word);
            // SeqCst with the store in `interrupt`: it sees the word, or we see its flag.
            let woken =
                if self.interrupted.load(Ordering::SeqCst) { Woken::Signal } else { word.wait(expected, timeout) };
            self.asleep_on.lock().0 = None;
            match woken {
                _ if self.interrupted.load(Ordering::SeqCst) => Err(WaitError::Interrupted),
                Woken::Notified => Ok(()),
                Woken::TimedOut => Err(WaitError::TimedOut),
                Woken::Signal => Err(WaitError::Interrupted),
            }
        }
    }
}
