//! A condition to wait for: what `threading.Condition` is, without its lock.
//!
//! Whoever waits takes a seat while it holds the lock, gives the lock back, sleeps, and takes the lock again. So a
//! notification that comes after the lock was given back finds the seat, and calls those who came first.
//!
//! A waiter leaves its seat when it has taken the lock again. One that died in its seat has not gone on, so what it was
//! called for is left to do, and somebody else is called. One that died while it notified held the lock: whoever takes
//! that is told, and may notify again those who were not called.
#![forbid(unsafe_code)]

use crate::error::OutOfMemory;
use crate::layout::PeerId;
use crate::lock::Owner;
use crate::sync::{AtomicU32, Ordering, essential};
use crate::waiters::{Benches, Call, Sitting, Waiters};

/// A condition. All zero bytes are a valid one that nobody waits for.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Condition {
    /// The next waiter's ticket.
    tickets: AtomicU32,
    waiters: Waiters,
}

impl Condition {
    /// Begins to wait.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn sit<'a>(&'a self, benches: &'a impl Benches, owner: Owner) -> Result<Sitting<'a>, OutOfMemory> {
        // Relaxed: the lock orders the tickets; without it, any order is as good as another.
        self.waiters.sit(benches, owner, self.tickets.fetch_add(1, Ordering::Relaxed))
    }

    /// Calls the `count` waiters that came first, and gives how many it were.
    pub fn notify(&self, benches: &impl Benches, count: u32) -> u32 {
        let next = self.tickets.load(Ordering::Relaxed);
        (0..count).take_while(|_| self.call_first(benches, next)).count() as u32
    }

    /// Calls everybody who waits now.
    pub fn notify_all(&self, benches: &impl Benches) {
        let next = self.tickets.load(Ordering::Relaxed);
        self.waiters.call_all(benches, Call::Called, next, |ticket| is_before(ticket, next));
    }

    /// Ends a wait: None, or the call if there was one.
    pub fn leave(&self, sitting: Sitting<'_>) -> Option<Called> {
        sitting.leave_with_mark().map(|(_, next)| Called { next })
    }

    /// Calls somebody else in the place of one who was called and can't do what it was called for. It is one who waited
    /// when that call was made: who came later was not meant.
    pub fn pass_on(&self, benches: &impl Benches, called: Called) {
        essential!(CallPassedOn: self.call_first(benches, called.next));
    }

    /// Forgets waiters that died. Calls that they had are passed on, maybe twice if their finder dies, too.
    pub fn recover(&self, benches: &impl Benches, dead: PeerId) {
        self.waiters.recover(benches, dead, |_, next| {
            essential!(DeadCallPassedOn: self.pass_on(benches, Called { next }));
        });
    }

    fn call_first(&self, benches: &impl Benches, next: u32) -> bool {
        let age = |ticket| next.wrapping_sub(ticket);
        self.waiters.call_first(benches, Call::Called, next, |ticket| is_before(ticket, next), age)
    }

    /// Forgets all waiters: for a forked child, where there are none.
    pub fn forget_waiters(&self, benches: &impl Benches) {
        self.waiters.vacate(benches);
    }

    /// Those who wait.
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }
}

/// The call that ended a wait.
#[derive(Debug)]
pub struct Called {
    /// The ticket after those of all who waited when the call was made.
    next: u32,
}

/// Whether a ticket was given before `next` is: tickets start again after 2^32, and no two waiters are that far apart.
fn is_before(ticket: u32, next: u32) -> bool {
    next.wrapping_sub(ticket).wrapping_sub(1) < 1 << 31
}
