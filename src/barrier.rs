//! A barrier: so many participants wait for each other, again and again. What `threading.Barrier` is.
//!
//! ```text
//!   63             40 39             16 15         4 3  2     1        0
//!  +-----------------+-----------------+------------+---+--------+--------+
//!  | generation      | arrived         |   peer     | 0 | ACTING | BROKEN |
//!  +-----------------+-----------------+------------+---+--------+--------+
//!
//!   arrived + 1 < parties   one more has arrived, and waits in a seat whose ticket is the generation
//!   arrived + 1 = parties   the last one: ACTING with its name while it runs the action, then the next generation
//!   BROKEN                  nobody can wait until somebody resets it: the next generation, and not broken
//! ```
//!
//! Arriving is one compare-and-swap that also checks the generation, and the news of its end is in each waiter's own
//! seat. So nobody has to wait until the last waiter of a generation has woken, as with a count alone.
#![forbid(unsafe_code)]

use core::time::Duration;

use crate::error::{BarrierError, OutOfMemory, WaitError};
use crate::event::{Bell, Event, Patience};
use crate::lock::Owner;
use crate::sync::{AtomicU32, AtomicU64, Ordering, essential};
use crate::waiters::{Benches, Call, Sitting, Waiters};

const BROKEN: u64 = 1;
const ACTING: u64 = 2;
const PEER_SHIFT: u32 = 4;
const ARRIVED_SHIFT: u32 = 16;
const ARRIVED_ONE: u64 = 1 << ARRIVED_SHIFT;
const GENERATION_SHIFT: u32 = 40;
const COUNT: u64 = (1 << 24) - 1;

/// A barrier. All zero bytes are a valid one, of no parties.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Barrier {
    word: AtomicU64,
    parties: AtomicU32,
    /// How long a wait lasts for which nothing else is said, in nanoseconds, plus one; 0 for ever.
    time_limit: AtomicU64,
    /// Notified when ACTING ends.
    acted: Event,
    waiters: Waiters,
}

/// How somebody arrived.
#[derive(Debug)]
pub enum Arrival<'a> {
    /// As one of those who wait, after so many others.
    Waiting(u32, Sitting<'a>),
    /// As the last one, while the others wait: now comes [`Last::release`].
    Last(Last<'a>),
}

impl Barrier {
    /// The most parties that a barrier can have.
    pub const MAX_PARTIES: u32 = COUNT as u32;

    /// Sets it up, before anybody else knows of it: 1 to [`Barrier::MAX_PARTIES`].
    pub fn initialize(&self, parties: u32) {
        self.parties.store(parties, Ordering::Relaxed); // Relaxed: the id that others get publishes it
    }

    /// Sets how long a wait lasts for which nothing else is said, before anybody else knows of it; None for ever.
    pub fn set_time_limit(&self, limit: Option<Duration>) {
        let nanoseconds = |limit: Duration| u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
        self.time_limit.store(limit.map_or(0, nanoseconds), Ordering::Relaxed); // Relaxed: as in `initialize`
    }

    /// How long a wait lasts for which nothing else is said.
    pub fn time_limit(&self) -> Option<Duration> {
        self.time_limit.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_nanos)
    }

    /// How many participants it takes.
    pub fn parties(&self) -> u32 {
        self.parties.load(Ordering::Relaxed)
    }

    /// How many wait now.
    pub fn arrived(&self) -> u32 {
        match self.word.load(Ordering::Relaxed) {
            word if word & BROKEN != 0 => 0,
            word if word & ACTING != 0 => self.parties(),
            word => arrived(word),
        }
    }

    /// Whether it is broken.
    pub fn is_broken(&self) -> bool {
        self.word.load(essential!(BarrierSeen: Ordering::Acquire)) & BROKEN != 0
    }

    /// Arrives; None while the last one of the generation before still acts.
    ///
    /// # Errors
    /// [`BarrierError::Broken`] and [`BarrierError::OutOfMemory`]; the caller has not arrived then.
    pub fn try_arrive<'a>(
        &'a self,
        benches: &'a impl Benches,
        owner: Owner,
    ) -> Result<Option<Arrival<'a>>, BarrierError> {
        loop {
            // SYNC POINT: Acquire sees what all who arrived had done before, or whoever broke it.
            let seen = self.word.load(essential!(BarrierSeen: Ordering::Acquire));
            if seen & BROKEN != 0 {
                return Err(BarrierError::Broken);
            }
            if seen & ACTING != 0 {
                return Ok(None);
            }
            if arrived(seen) + 1 >= self.parties() {
                let acting = seen | ACTING | u64::from(owner.peer.get()) << PEER_SHIFT;
                // Relaxed: no word comes twice, so what it replaces is what was seen.
                if self.word.compare_exchange(seen, acting, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                    return Ok(Some(Arrival::Last(Last { barrier: self, acting })));
                }
                continue;
            }
            // First the seat, for the last one must find everybody who has arrived in one.
            let sitting = self.waiters.sit(benches, owner, generation(seen))?;
            // SYNC POINT: Release publishes what came before, and the seat, to the last one and to whoever breaks it.
            let release = essential!(Arrived: Ordering::Release);
            if self.word.compare_exchange(seen, seen + ARRIVED_ONE, release, Ordering::Relaxed).is_ok() {
                return Ok(Some(Arrival::Waiting(arrived(seen), sitting)));
            }
        }
    }

    /// Arrives. Waits only while the last one of the generation before still acts.
    ///
    /// # Errors
    /// [`BarrierError`]; the caller has not arrived then.
    pub fn arrive<'a>(
        &'a self,
        benches: &'a impl Benches,
        owner: Owner,
        bell: &Bell,
        patience: &Patience<'_>,
    ) -> Result<Arrival<'a>, BarrierError> {
        loop {
            if let Some(arrival) = self.try_arrive(benches, owner)? {
                return Ok(arrival);
            }
            let acted = || (self.word.load(Ordering::Relaxed) & ACTING == 0).then_some(());
            self.acted.wait_until(bell, patience, acted, || false)?;
        }
    }

    /// Breaks it: all who wait are dismissed, and nobody can wait until it is reset.
    pub fn abort(&self, benches: &impl Benches, bell: &Bell) {
        let seen = self.change(|seen| generation_bits(seen) | BROKEN);
        self.dismiss(seen, benches, bell);
    }

    /// Makes it as new: all who wait are dismissed.
    pub fn reset(&self, benches: &impl Benches, bell: &Bell) {
        let seen = self.change(next_generation);
        self.dismiss(seen, benches, bell);
    }

    /// Breaks it unless that generation has ended: one of those who had arrived has left.
    pub fn abandon(&self, ticket: u32, benches: &impl Benches, bell: &Bell) {
        self.break_generation(ticket, BROKEN, benches, bell);
    }

    /// Breaks it if that generation still waits for others to arrive: the time of one of those who had is up.
    ///
    /// False if it does not: all have arrived, or somebody else has broken it, so that the wait ends with a call. It
    /// is not in vain then just because the last one takes time to act.
    pub fn time_out(&self, ticket: u32, benches: &impl Benches, bell: &Bell) -> bool {
        self.break_generation(ticket, BROKEN | ACTING, benches, bell)
    }

    /// Breaks it if it is that generation still, with none of those flags; false if it is not.
    fn break_generation(&self, ticket: u32, unless: u64, benches: &impl Benches, bell: &Bell) -> bool {
        let mut seen = self.word.load(Ordering::Relaxed);
        while generation(seen) == ticket && seen & unless == 0 {
            let broken = generation_bits(seen) | BROKEN;
            match self.word.compare_exchange(seen, broken, essential!(Broke: Ordering::AcqRel), Ordering::Relaxed) {
                Ok(_) => {
                    self.dismiss(seen, benches, bell);
                    return true;
                }
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Changes the word, which ends the generation, and gives what it was.
    fn change(&self, to: impl Fn(u64) -> u64) -> u64 {
        let mut seen = self.word.load(Ordering::Relaxed);
        loop {
            // SYNC POINT: Acquire sees the seats of those who have arrived; Release publishes why it was done.
            match self.word.compare_exchange(seen, to(seen), essential!(Broke: Ordering::AcqRel), Ordering::Relaxed) {
                Ok(_) => return seen,
                Err(now) => seen = now,
            }
        }
    }

    /// Tells those of a generation that has just ended in vain, and those who wait for its action's end.
    fn dismiss(&self, seen: u64, benches: &impl Benches, bell: &Bell) {
        let ended = generation(seen);
        self.waiters.call_all(benches, Call::Dismissed, ended, |ticket| ticket == ended);
        self.acted.notify_all(bell);
    }

    /// Those who wait.
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }
}

/// The last one to arrive, who lets the others go.
#[derive(Debug)]
#[must_use = "the others wait"]
pub struct Last<'a> {
    barrier: &'a Barrier,
    /// The word while it acts.
    acting: u64,
}

impl Last<'_> {
    /// How many arrived before.
    pub fn index(&self) -> u32 {
        arrived(self.acting)
    }

    /// Lets the others go.
    ///
    /// # Errors
    /// [`BarrierError::Broken`] if the barrier was broken or reset meanwhile.
    pub fn release(self, benches: &impl Benches, bell: &Bell) -> Result<(), BarrierError> {
        let barrier = self.barrier;
        let next = next_generation(self.acting);
        // SYNC POINT: Release publishes the action to that of the next generation; Acquire sees why it was broken.
        let (release, acquire) = (essential!(Acted: Ordering::Release), essential!(BarrierSeen: Ordering::Acquire));
        if barrier.word.compare_exchange(self.acting, next, release, acquire).is_err() {
            return Err(BarrierError::Broken);
        }
        let ended = generation(self.acting);
        barrier.waiters.call_all(benches, Call::Called, ended, |ticket| ticket == ended);
        barrier.acted.notify_all(bell);
        Ok(())
    }

    /// Breaks the barrier instead: the action failed.
    pub fn fail(self, benches: &impl Benches, bell: &Bell) {
        self.barrier.abandon(generation(self.acting), benches, bell);
    }
}

fn arrived(word: u64) -> u32 {
    (word >> ARRIVED_SHIFT & COUNT) as u32
}

fn generation(word: u64) -> u32 {
    (word >> GENERATION_SHIFT) as u32
}

fn generation_bits(word: u64) -> u64 {
    word & !0 << GENERATION_SHIFT
}

/// The word of the next generation, in which nobody has arrived.
fn next_generation(word: u64) -> u64 {
    generation_bits(word).wrapping_add(1 << GENERATION_SHIFT)
}

impl From<OutOfMemory> for BarrierError {
    fn from(error: OutOfMemory) -> Self {
        BarrierError::OutOfMemory(error)
    }
}

impl From<WaitError> for BarrierError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut => BarrierError::TimedOut,
            WaitError::Interrupted => BarrierError::Interrupted,
        }
    }
}
