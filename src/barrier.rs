//! A barrier: so many participants wait for each other, again and again. What `threading.Barrier` is.
//!
//! ```text
//!   63             40 39             16 15         4    3       2       1        0
//!  +-----------------+-----------------+------------+-------+--------+--------+--------+
//!  | generation      | arrived         |   peer     | RESET | PASSED | ACTING | BROKEN |
//!  +-----------------+-----------------+------------+-------+--------+--------+--------+
//!
//!   arrived + 1 < parties   one more has arrived, and waits in a seat whose ticket is the generation
//!   arrived + 1 = parties   the last one: ACTING with its name while it runs the action
//!   PASSED, RESET           the generation has ended, well or in vain; those who wait are being told, and the next one
//!                           begins when they have been
//!   BROKEN                  nobody can wait until somebody resets it
//! ```
//!
//! Arriving is one compare-and-swap that also checks the generation, and the news of its end is in each waiter's own
//! seat. So nobody has to wait until the last waiter of a generation has woken, as with a count alone. Nor for the one
//! who tells them, who may die: whoever finds PASSED or RESET tells them all, and goes on.
//!
//! A participant that dies while it waits breaks the barrier for the others, unless all had arrived; so does the last one
//! that dies in its action. One who dies as it arrives has taken its seat and may not be counted yet: that can't be told
//! apart, and breaks the barrier too.
#![forbid(unsafe_code)]

use core::time::Duration;

use crate::error::{BarrierError, OutOfMemory, WaitError};
use crate::event::{Bell, Event, Patience};
use crate::fault::fault;
use crate::layout::PeerId;
use crate::lock::Owner;
use crate::sync::{AtomicU32, AtomicU64, Ordering, essential};
use crate::waiters::{Benches, Call, Sitting, Waiters};

const BROKEN: u64 = 1;
const ACTING: u64 = 2;
const PASSED: u64 = 4;
const RESET: u64 = 8;
const ENDED: u64 = PASSED | RESET;
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
            word if word & (BROKEN | ENDED) != 0 => 0,
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
            let seen = self.settled(benches);
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
                    fault!(BarrierActing);
                    return Ok(Some(Arrival::Last(Last { barrier: self, acting })));
                }
                continue;
            }
            // First the seat, for the last one must find everybody who has arrived in one.
            let sitting = self.waiters.sit(benches, owner, generation(seen))?;
            fault!(BarrierSeated);
            // SYNC POINT: Release publishes what came before, and the seat, to the last one and to whoever breaks it.
            let release = essential!(Arrived: Ordering::Release);
            if self.word.compare_exchange(seen, seen.wrapping_add(ARRIVED_ONE), release, Ordering::Relaxed).is_ok() {
                fault!(BarrierArrived);
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
        let seen = self.change(benches, |seen| generation_bits(seen) | BROKEN);
        fault!(BarrierBroken);
        self.dismiss(seen, benches, bell);
    }

    /// Makes it as new: all who wait are dismissed.
    pub fn reset(&self, benches: &impl Benches, bell: &Bell) {
        let seen = self.change(benches, |seen| generation_bits(seen) | RESET);
        fault!(BarrierReset);
        self.finish(generation_bits(seen) | RESET, benches);
        self.acted.notify_all(bell);
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
        while generation(seen) == ticket && seen & (unless | ENDED) == 0 {
            let broken = generation_bits(seen) | BROKEN;
            match self.word.compare_exchange(seen, broken, essential!(Broke: Ordering::AcqRel), Ordering::Relaxed) {
                Ok(_) => {
                    fault!(BarrierBroken);
                    self.dismiss(seen, benches, bell);
                    return true;
                }
                Err(now) => seen = now,
            }
        }
        false
    }

    /// The word when no generation is just ending.
    fn settled(&self, benches: &impl Benches) -> u64 {
        loop {
            // SYNC POINT: Acquire sees what all who arrived had done before, or whoever broke it or ended a generation.
            let seen = self.word.load(essential!(BarrierSeen: Ordering::Acquire));
            if seen & ENDED == 0 {
                return seen;
            }
            self.finish(seen, benches);
        }
    }

    /// Changes the word, which ends the generation, and gives what it was.
    fn change(&self, benches: &impl Benches, to: impl Fn(u64) -> u64) -> u64 {
        loop {
            let seen = self.settled(benches);
            // SYNC POINT: Acquire sees the seats of those who have arrived; Release publishes why it was done.
            let ordering = essential!(Broke: Ordering::AcqRel);
            if self.word.compare_exchange(seen, to(seen), ordering, Ordering::Relaxed).is_ok() {
                return seen;
            }
        }
    }

    /// Tells those of a generation that has ended, and begins the next one.
    fn finish(&self, ended: u64, benches: &impl Benches) {
        let ticket = generation(ended);
        let call = if ended & PASSED != 0 { Call::Called } else { Call::Dismissed };
        essential!(AllTold: self.waiters.call_all(benches, call, ticket, |seat| seat == ticket));
        fault!(BarrierTold);
        // It fails if somebody else was quicker. Relaxed: what the generation's end published goes on to whoever sees the
        // next one, because this is a read-modify-write.
        let _ = self.word.compare_exchange(ended, next_generation(ended), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Tells those who wait that the barrier was broken, and those who wait for its action's end.
    fn dismiss(&self, seen: u64, benches: &impl Benches, bell: &Bell) {
        let ended = generation(seen);
        self.waiters.call_all(benches, Call::Dismissed, ended, |ticket| ticket == ended);
        self.acted.notify_all(bell);
    }

    /// Goes on with what one who died has left, and breaks the barrier if the others would wait for it.
    pub fn recover(&self, benches: &impl Benches, dead: PeerId, bell: &Bell) {
        let seen = self.settled(benches);
        if essential!(DeadActed: seen & ACTING != 0 && peer(seen) == dead.get()) {
            self.abandon(generation(seen), benches, bell);
        }
        // Before its seats are free: should we die here, then the next one finds them.
        for ticket in self.waiters.tickets(benches, dead) {
            essential!(DeadAwaited: self.time_out(ticket, benches, bell));
        }
        fault!(BarrierDeadLeft);
        self.waiters.recover(benches, dead, |_, _| {});
        // Maybe it was the dead one who broke it, and told nobody.
        let seen = self.word.load(Ordering::Relaxed);
        if seen & BROKEN != 0 {
            essential!(DeadBroke: self.dismiss(seen, benches, bell));
        }
        self.acted.recover();
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
        let passed = generation_bits(self.acting) | PASSED;
        // SYNC POINT: Release publishes the action to that of the next generation; Acquire sees why it was broken.
        let (release, acquire) = (essential!(Acted: Ordering::Release), essential!(BarrierSeen: Ordering::Acquire));
        if barrier.word.compare_exchange(self.acting, passed, release, acquire).is_err() {
            return Err(BarrierError::Broken);
        }
        fault!(BarrierPassed);
        barrier.finish(passed, benches);
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

fn peer(word: u64) -> u16 {
    (word >> PEER_SHIFT & 0xFFF) as u16
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
