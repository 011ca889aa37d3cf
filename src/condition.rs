//! A condition to wait for: what `threading.Condition` is, without its lock.
//!
//! Whoever waits takes a seat while it holds the lock, gives the lock back, sleeps, and takes the lock again. So a
//! notification that comes after the lock was given back finds the seat, and calls those who came first.
#![forbid(unsafe_code)]

use crate::error::OutOfMemory;
use crate::lock::Owner;
use crate::sync::{AtomicU32, Ordering};
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
        let age = |ticket| next.wrapping_sub(ticket);
        let call_one = |_: &u32| self.waiters.call_first(benches, Call::Called, |ticket| is_before(ticket, next), age);
        (0..count).take_while(call_one).count() as u32
    }

    /// Calls everybody who waits now.
    pub fn notify_all(&self, benches: &impl Benches) {
        let next = self.tickets.load(Ordering::Relaxed);
        self.waiters.call_all(benches, Call::Called, |ticket| is_before(ticket, next));
    }

    /// Those who wait.
    pub fn waiters(&self) -> &Waiters {
        &self.waiters
    }
}

/// Whether a ticket was given before `next` is: tickets start again after 2^32, and no two waiters are that far apart.
fn is_before(ticket: u32, next: u32) -> bool {
    next.wrapping_sub(ticket).wrapping_sub(1) < 1 << 31
}
