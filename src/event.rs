//! An event count: sleep until a condition may hold, at no cost to those who make it hold while nobody sleeps.
//!
//! ```text
//!   waiter                                     notifier
//!   ------                                     --------
//!   sleepers += 1                              make the condition hold        (a read-modify-write)
//!   seen = sequence                            fence                          ← SYNC POINT: store before load
//!   another epoch ?    → sleepers += 1         sleepers = 0 ?  → done: no system call
//!   clear WAKING                               WAKING set ?    → done: a wake is under way
//!   fence   ← SYNC POINT: store before load    set WAKING, sequence += 1, futex wake
//!   condition holds ?  → leave
//!   futex wait while sequence = seen
//!   again
//!
//!   31       30        29     20 19                  0
//!  +--------+---------+---------+---------------------+
//!  | WAKING | WATCHED |  epoch  | sleepers            |
//!  +--------+---------+---------+---------------------+
//! ```
//!
//! The two fences are the store-buffering pattern: either the notifier sees the sleeper, or the sleeper sees
//! the condition. `tests/loom` shows that without either of them a wake can be lost.
//!
//! WAKING keeps a producer that runs ahead from making a system call a message while the consumer that it
//! woke is still on its way to a processor. Whoever wakes clears it *before* looking again, and passes the
//! wake on if there is more than it took, so no wake is owed to anybody when WAKING is clear.
//!
//! Who waits for several things at once ([`wait_any`]) can sleep on one word only: the region's [`Bell`]. It sets WATCHED
//! in each event's word; a notifier that finds it there takes it back and rings, and whoever the bell woke sets it again.
//! So nobody has to be told when such a wait ends: a flag that was left costs one ring.
//!
//! A sleeper that is killed stays counted, and each notifier would make a system call for it. [`Event::recover`] begins
//! a new epoch with nobody in it and wakes everybody. Who lives counts itself again, and takes its count back only from
//! the epoch in which it counted itself.
//!
//! A notifier that is killed leaves its work undone: the condition holds and nobody was woken, or WAKING was set and
//! nobody comes. Each sleeper looks again when it has looked out ([`Lookout`]), so no harm is done that lasts.

use core::fmt::Debug;
use core::ops::Deref;
#[cfg(not(loom))]
use core::time::Duration;
#[cfg(not(loom))]
use std::time::Instant;

use crate::error::WaitError;
use crate::fault::fault;
use crate::sync::{AtomicU32, FutexWord, Ordering, essential, fence, fence_after_read_modify_write};
#[cfg(not(loom))]
use crate::sync::{Woken, spin_loop};

/// Set from the futex wake until the woken thread looks again.
const WAKING: u32 = 1 << 31;
/// Set by those who sleep on the bell.
const WATCHED: u32 = 1 << 30;

/// How many threads sleep, in which epoch; the two highest bits are flags of the event's. All zero bytes are valid.
///
/// The count only says whether a wake may be needed. One that is too large costs wakes. One that is too small would take
/// more sleepers than it can hold, or one that slept through all epochs there are; it costs a sleeper the time until it
/// looks out.
#[repr(transparent)]
#[derive(Debug, Default)]
pub(crate) struct Sleepers(AtomicU32);

const COUNT: u32 = EPOCH_ONE - 1;
const EPOCH: u32 = WATCHED - EPOCH_ONE;
const EPOCH_ONE: u32 = 1 << 20;

/// The epoch in which a sleeper counted itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(u32);

impl Sleepers {
    /// Counts the caller.
    pub(crate) fn enter(&self) -> Epoch {
        Epoch(self.0.fetch_add(1, Ordering::Relaxed) & EPOCH) // Relaxed: a fence of the caller's orders it
    }

    /// Counts the caller again if it is counted no more.
    pub(crate) fn stay(&self, epoch: &mut Epoch) {
        if essential!(CountedAgain: self.0.load(Ordering::Relaxed) & EPOCH != epoch.0) {
            *epoch = self.enter();
        }
    }

    /// Takes the caller's count back.
    pub(crate) fn leave(&self, epoch: Epoch) {
        let mut seen = self.0.load(Ordering::Relaxed);
        let is_another = |seen: u32| essential!(OwnEpoch: seen & EPOCH != epoch.0);
        while !is_another(seen) && seen & COUNT != 0 {
            // Relaxed: too large a count only costs a wake.
            match self.0.compare_exchange(seen, seen - 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed) & COUNT
    }

    /// Begins a new epoch with nobody in it. Everybody is to be woken then.
    pub(crate) fn forget(&self) {
        let mut seen = self.0.load(Ordering::Relaxed);
        while seen & (COUNT | WAKING) != 0 {
            let next = seen.wrapping_add(EPOCH_ONE) & EPOCH | seen & WATCHED;
            // Relaxed: whoever is woken for it sees it by the word that it slept on.
            match self.0.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

/// A place to sleep until a condition may have come true. All zero bytes are a valid, idle event.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Event {
    /// The futex word: grows by one with every wake.
    sequence: FutexWord,
    /// Those in [`Event::wait_until`], and the flags [`WAKING`] and [`WATCHED`].
    sleepers: Sleepers,
}

impl Event {
    /// Wakes one sleeper, if there is one and no wake is under way.
    ///
    /// The caller has just made the condition hold by an atomic read-modify-write.
    #[inline(always)]
    pub fn notify_one(&self, bell: &Bell) {
        essential!(NotifyFence: fence_after_read_modify_write()); // SYNC POINT: the condition before `sleepers`
        let sleepers = self.sleepers.0.load(Ordering::Relaxed); // Relaxed: the fence orders it
        if sleepers & (COUNT | WATCHED) != 0 {
            self.wake_one(sleepers, bell);
        }
    }

    #[cold]
    fn wake_one(&self, sleepers: u32, bell: &Bell) {
        fault!(EventConditionMade);
        // Relaxed: the fences see to it that whoever clears WAKING after this sees the condition that we made hold.
        if sleepers & COUNT != 0
            && sleepers & WAKING == 0
            && self.sleepers.0.fetch_or(WAKING, Ordering::Relaxed) & WAKING == 0
        {
            fault!(EventWaking);
            // SYNC POINT: Release publishes WAKING to the Acquire in `wait_until`.
            self.sequence.fetch_add(1, essential!(Grown: Ordering::Release));
            fault!(EventGrown);
            self.sequence.wake(1);
        }
        self.ring(sleepers, bell);
    }

    /// Wakes every sleeper. The caller has just changed something by an atomic read-modify-write.
    pub fn notify_all(&self, bell: &Bell) {
        essential!(NotifyFence: fence_after_read_modify_write()); // SYNC POINT: the condition before `sleepers`
        let sleepers = self.sleepers.0.load(Ordering::Relaxed);
        if sleepers & COUNT != 0 {
            fault!(EventConditionMade);
            self.sequence.fetch_add(1, Ordering::Relaxed); // Relaxed: the fences order it
            fault!(EventGrown);
            self.sequence.wake(i32::MAX);
        }
        self.ring(sleepers, bell);
    }

    /// Rings the bell if somebody watches.
    fn ring(&self, sleepers: u32, bell: &Bell) {
        // Relaxed: the bell's word publishes that the flag is gone.
        if sleepers & WATCHED != 0 && self.sleepers.0.fetch_and(!WATCHED, Ordering::Relaxed) & WATCHED != 0 {
            fault!(EventUnwatched);
            bell.ring();
        }
    }

    /// Calls `attempt` until it gives something, sleeping in between.
    ///
    /// After a success, `more` says whether another sleeper would succeed too; the wake is passed on then.
    ///
    /// # Errors
    /// [`WaitError::TimedOut`] at the deadline, [`WaitError::Interrupted`] when `patience`'s thread got a
    /// signal or was interrupted. `attempt` has been called once more after the last sleep, unless it was interrupted.
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
        let mut epoch = self.sleepers.enter();
        let mut ended = Ok(());
        let result = loop {
            fault!(EventCounted);
            // SYNC POINT: Acquire, before the look at WAKING and the epoch. Otherwise the wake that comes with them may
            // be one that we have seen already.
            let seen = self.sequence.load(essential!(Seen: Ordering::Acquire));
            self.look(&mut epoch);
            if patience.is_interrupted() {
                break Err(WaitError::Interrupted); // whoever has done it may rely on it that nothing is taken any more
            }
            if let Some(value) = attempt() {
                break Ok(value);
            }
            if let Err(error) = ended {
                break Err(error);
            }
            ended = patience.sleep(&self.sequence, seen);
        };
        fault!(EventLeaving);
        self.sleepers.leave(epoch);
        // The wake may have been ours. Who was interrupted has left what it was for.
        if (result.is_ok() || patience.is_interrupted()) && essential!(PassOn: more()) {
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

    /// Comes before each look of a sleeper at the condition: it is counted, and the wake that was under way has arrived.
    fn look(&self, epoch: &mut Epoch) {
        self.sleepers.stay(epoch);
        if self.sleepers.0.load(Ordering::Relaxed) & WAKING != 0 {
            self.sleepers.0.fetch_and(!WAKING, Ordering::Relaxed); // Relaxed: the fence orders it
        }
        essential!(WaitFence: fence(Ordering::SeqCst)); // SYNC POINT: `sleepers` before the condition
    }

    /// Comes before each look at the condition of those who sleep on the bell: it rings when the condition may hold.
    pub fn watch(&self) {
        // If the flag has just been taken back and we do not see it yet, then we do not hear the ring yet that follows.
        if self.sleepers.0.load(Ordering::Relaxed) & WATCHED == 0 {
            self.sleepers.0.fetch_or(essential!(Watched: WATCHED), Ordering::Relaxed); // Relaxed: the fence orders it
        }
        essential!(WaitFence: fence(Ordering::SeqCst)); // SYNC POINT: `sleepers` before the condition
    }

    /// Forgets the sleepers that died, and wakes the others. Who watches it is woken by the bell.
    pub fn recover(&self) {
        self.sleepers.forget();
        fault!(EventForgotten);
        // SYNC POINT: Release publishes the epoch to the Acquire in `wait_until`.
        self.sequence.fetch_add(1, essential!(EpochSeen: Ordering::Release));
        self.sequence.wake(i32::MAX); // also if nobody was counted: one who died doing this may have forgotten them
    }

    /// How many threads wait here.
    pub fn waiting(&self) -> u32 {
        self.sleepers.count()
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

/// The word that those sleep on who wait for several things at once, or for others; one for all of a region.
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
        // SYNC POINT: Release publishes what has become of WATCHED to the Acquire in `wait_any`.
        self.rings.fetch_add(1, essential!(BellRung: Ordering::Release));
        self.rings.wake(i32::MAX);
    }

    /// Calls `look` until it gives something, sleeping on the bell in between. It [looks](Watchable::look) at things, or
    /// at those at which others look for the sleeper: they do so under a lock, and `look` takes the same one to see what
    /// they are.
    ///
    /// # Errors
    /// [`WaitError`]. `look` has been called once more after the last sleep.
    pub fn wait_until<T>(&self, patience: &Patience<'_>, mut look: impl FnMut() -> Option<T>) -> Result<T, WaitError> {
        let mut ended = Ok(());
        loop {
            // SYNC POINT: Acquire, before the looks, as in `Event::wait_until`. What others look at after that, under the
            // lock that `look` takes, rings after that, too.
            let seen = self.rings.load(essential!(BellSeen: Ordering::Acquire));
            if let Some(value) = look() {
                return Ok(value);
            }
            ended?;
            ended = patience.sleep(&self.rings, seen);
        }
    }
}

/// What can be waited for together with others.
pub trait Watchable {
    /// Whether a wait for it alone would end now.
    fn is_ready(&self) -> bool;

    /// The same. If it is not ready, then the bell rings when it may have become so.
    fn look(&self) -> bool;
}

/// What leads to such a thing.
impl<P: Deref<Target: Watchable>> Watchable for P {
    fn is_ready(&self) -> bool {
        (**self).is_ready()
    }

    fn look(&self) -> bool {
        (**self).look()
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
    bell.wait_until(patience, || things.iter().position(|thing| thing.look()))
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

    /// Whether the thread was interrupted by another one.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.parker.is_interrupted()
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

    pub(crate) fn is_interrupted(&self) -> bool {
        false
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

        /// Whether the thread was interrupted since the last [`Parker::take_interrupt`].
        pub(super) fn is_interrupted(&self) -> bool {
            self.interrupted.load(Ordering::SeqCst)
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
