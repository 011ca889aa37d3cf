//! Who waits at a condition or a barrier: seats with names, each with a word of its own to sleep on.
//!
//! ```text
//!   63            32 31      16 15         4 3    2 1     0
//!  +----------------+----------+------------+------+-------+
//!  | ticket or mark |    0     |   peer     |   0  | state |
//!  +----------------+----------+------------+------+-------+
//!
//!   FREE       → WAITING    whoever wants to wait: its name and ticket come with the same compare-and-swap
//!   WAITING    → CALLED     whoever ends the wait, or → DISMISSED with the news that it was in vain
//!   WAITING    → FREE       the waiter gives up
//!   CALLED, DISMISSED → FREE  the waiter has seen it
//! ```
//!
//! Each waiter is ended by exactly one compare-and-swap of its seat, its own or another's, so a call is never taken by
//! anybody else, and a waiter that gives up just when it is called finds out. Tickets say who came first; a call writes
//! a mark of its own in their place.
//!
//! Seats that do not fit into the object itself are on benches: blocks linked from there, which stay as long as it does.
//!
//! A seat has its owner's name from the compare-and-swap that takes it, so what the dead leave is known: whether they
//! still waited, or had been called. What becomes of a call is the business of [`condition`](crate::condition) and
//! [`barrier`](crate::barrier).
#![forbid(unsafe_code)]

use crate::error::{OutOfMemory, WaitError};
use crate::event::Patience;
use crate::fault::fault;
use crate::layout::PeerId;
use crate::lock::Owner;
use crate::sync::{AtomicU32, AtomicU64, FutexWord, Ordering, essential};

const STATE: u64 = 3;
const FREE: u64 = 0;
const WAITING: u64 = 1;
const CALLED: u64 = 2;
const DISMISSED: u64 = 3;
const PEER: u64 = 0xFFF0;
const PEER_SHIFT: u32 = 4;
const TICKET_SHIFT: u32 = 32;

/// Seats of an object itself, and of a bench. Few in models, where each costs interleavings.
const OWN_SEATS: usize = if cfg!(loom) { 2 } else { 12 };
const BENCH_SEATS: usize = if cfg!(loom) { 1 } else { 62 };

/// Benches for more threads than the kernel has numbers for: a longer row was written over, and may have no end.
const MAX_BENCHES: usize = (1 << 22) / BENCH_SEATS + 1;

const _: () = assert!(CALLED & DISMISSED == CALLED && CALLED & WAITING == 0, "a bit says whether one was called");

/// A place to wait in.
#[repr(C)]
#[derive(Debug, Default)]
struct Seat {
    word: AtomicU64,
    /// The futex word: grows by one with every call.
    calls: FutexWord,
    /// The kernel's id of the waiter's thread, for diagnosis.
    thread: AtomicU32,
}

/// A row of seats, and the next one.
#[repr(C)]
#[derive(Debug)]
struct Row<const SEATS: usize> {
    /// The next bench, as [`Benches`] names it; 0 if there is none.
    next: AtomicU64,
    seats: [Seat; SEATS],
}

impl<const SEATS: usize> Default for Row<SEATS> {
    fn default() -> Self {
        Row { next: AtomicU64::default(), seats: core::array::from_fn(|_| Seat::default()) }
    }
}

/// A block of more seats.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Bench(Row<BENCH_SEATS>);

/// Where benches come from.
pub trait Benches {
    /// The bench of that name, which is not 0.
    fn bench(&self, name: u64) -> Option<&Bench>;

    /// Makes a bench, which is `me`'s until it is linked.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn make(&self, me: PeerId) -> Result<u64, OutOfMemory>;

    /// Links a bench of `me`'s, which it is no more then; false if there is a link already.
    fn link(&self, _me: PeerId, link: &AtomicU64, name: u64) -> bool {
        // SYNC POINT: Release publishes the new bench to the Acquire in `following`.
        link.compare_exchange(0, name, essential!(BenchLinked: Ordering::Release), Ordering::Relaxed).is_ok()
    }

    /// Takes a bench of `me`'s back that was made for nothing.
    fn discard(&self, me: PeerId, name: u64);
}

/// Those who wait. All zero bytes are valid: nobody.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Waiters(Row<OWN_SEATS>);

/// What ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// What was waited for has come.
    Called,
    /// It will not come.
    Dismissed,
}

impl Waiters {
    /// Takes a seat.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn sit<'a>(&'a self, benches: &'a impl Benches, owner: Owner, ticket: u32) -> Result<Sitting<'a>, OutOfMemory> {
        let word = u64::from(ticket) << TICKET_SHIFT | u64::from(owner.peer.get()) << PEER_SHIFT | WAITING;
        loop {
            // Acquire: the last waiter here is gone, whatever it did with the seat.
            let free = |seat: &&Seat| {
                seat.word.load(Ordering::Relaxed) == FREE
                    && seat.word.compare_exchange(FREE, word, Ordering::Acquire, Ordering::Relaxed).is_ok()
            };
            if let Some(seat) = self.seats(benches).find(free) {
                fault!(SeatTaken);
                seat.thread.store(owner.thread, Ordering::Relaxed);
                return Ok(Sitting { seat, word });
            }
            let name = benches.make(owner.peer)?;
            fault!(BenchMade);
            let (rows, last) = self.rows(benches).fold((0, &self.0.next), |(rows, _), link| (rows + 1, link));
            if !benches.link(owner.peer, last, name) {
                benches.discard(owner.peer, name);
                if rows > MAX_BENCHES || following(last, benches).is_none() {
                    // The links were written over. Without them there is no way to more seats.
                    return Err(OutOfMemory { requested: size_of::<Bench>() as u64, available: 0 });
                }
            }
        }
    }

    /// Ends the wait of whoever holds the ticket of the greatest age, among those that `among` accepts; false if nobody
    /// does.
    pub(crate) fn call_first(
        &self,
        benches: &impl Benches,
        call: Call,
        mark: u32,
        among: impl Fn(u32) -> bool,
        age: impl Fn(u32) -> u32,
    ) -> bool {
        loop {
            let waiting = |seat| waiting(seat).filter(|word| among(ticket(*word))).map(|word| (seat, word));
            let oldest = self.seats(benches).filter_map(waiting).max_by_key(|(_, word)| age(ticket(*word)));
            match oldest {
                None => return false,
                Some((seat, word)) if end(seat, word, call, mark) => return true,
                Some(_) => {} // it gave up, or somebody else called it: look again
            }
        }
    }

    /// Ends the wait of all whose tickets `among` accepts.
    pub(crate) fn call_all(&self, benches: &impl Benches, call: Call, mark: u32, among: impl Fn(u32) -> bool) {
        for seat in self.seats(benches) {
            if let Some(word) = waiting(seat).filter(|word| among(ticket(*word))) {
                end(seat, word, call, mark); // if it fails, then somebody else has ended that wait
            }
        }
    }

    /// Frees the seats of one who died. If it had been called, then `called` comes before, with the call and its mark: again,
    /// should whoever calls this die meanwhile.
    pub(crate) fn recover(&self, benches: &impl Benches, dead: PeerId, mut called: impl FnMut(Call, u32)) {
        let mine = |seat: &&Seat| {
            let word = seat.word.load(Ordering::Relaxed);
            word & STATE != FREE && word & PEER == u64::from(dead.get()) << PEER_SHIFT
        };
        // First those who waited: what another one was called for is not to be passed on to them.
        for seat in self.seats(benches).filter(mine) {
            if let Some(word) = waiting(seat) {
                // It fails if somebody calls just now. Release: the next one here comes after us.
                let _ = seat.word.compare_exchange(word, FREE, Ordering::Release, Ordering::Relaxed);
                fault!(DeadSeatFreed);
            }
        }
        for seat in self.seats(benches).filter(mine) {
            // SYNC POINT: Acquire as in `Sitting::call`.
            let word = seat.word.load(essential!(SeatHeard: Ordering::Acquire));
            if let Some(call) = call(word, word) {
                called(call, ticket(word));
                fault!(DeadCallHeard);
            }
            seat.word.store(FREE, Ordering::Release); // nobody else touches the seat of one who was called
        }
        // Whoever called them may have died before it woke them.
        self.seats(benches).filter(|seat| seat.word.load(Ordering::Relaxed) & CALLED != 0).for_each(wake);
    }

    /// The tickets with which somebody of that name waits.
    pub(crate) fn tickets<'a>(&'a self, benches: &'a impl Benches, peer: PeerId) -> impl Iterator<Item = u32> {
        let name = u64::from(peer.get()) << PEER_SHIFT;
        self.seats(benches).filter_map(waiting).filter(move |word| word & PEER == name).map(ticket)
    }

    /// Frees all seats: for a forked child, where nobody is who waits.
    pub(crate) fn vacate(&self, benches: &impl Benches) {
        self.seats(benches).for_each(|seat| seat.word.store(FREE, Ordering::Relaxed)); // Relaxed: nobody else is there
    }

    /// How many wait.
    pub fn count(&self, benches: &impl Benches) -> usize {
        self.seats(benches).filter(|seat| waiting(seat).is_some()).count()
    }

    /// The names of the benches, the first one first.
    pub fn benches<'a>(&'a self, benches: &'a impl Benches) -> impl Iterator<Item = u64> {
        self.rows(benches).map(|next| next.load(Ordering::Acquire)).filter(|name| *name != 0)
    }

    /// The links that lead from row to row.
    fn rows<'a>(&'a self, benches: &'a impl Benches) -> impl Iterator<Item = &'a AtomicU64> {
        core::iter::once(&self.0.next).chain(self.more(benches).map(|bench| &bench.0.next))
    }

    fn seats<'a>(&'a self, benches: &'a impl Benches) -> impl Iterator<Item = &'a Seat> {
        self.0.seats.iter().chain(self.more(benches).flat_map(|bench| bench.0.seats.iter()))
    }

    /// The benches.
    fn more<'a>(&'a self, benches: &'a impl Benches) -> impl Iterator<Item = &'a Bench> {
        let first = following(&self.0.next, benches);
        core::iter::successors(first, |bench| following(&bench.0.next, benches)).take(MAX_BENCHES)
    }
}

fn following<'a>(link: &AtomicU64, benches: &'a impl Benches) -> Option<&'a Bench> {
    // SYNC POINT: Acquire sees what the bench was made of.
    match link.load(essential!(BenchSeen: Ordering::Acquire)) {
        0 => None,
        name => benches.bench(name),
    }
}

/// The seat's word, if somebody waits there.
fn waiting(seat: &Seat) -> Option<u64> {
    let word = seat.word.load(Ordering::Relaxed); // Relaxed: `end` looks again
    (word & STATE == WAITING).then_some(word)
}

fn ticket(word: u64) -> u32 {
    (word >> TICKET_SHIFT) as u32
}

/// Ends a wait; false if it is that wait no more.
fn end(seat: &Seat, word: u64, call: Call, mark: u32) -> bool {
    let state = if call == Call::Called { CALLED } else { DISMISSED };
    let called = u64::from(mark) << TICKET_SHIFT | word & PEER | state;
    // SYNC POINT: Release publishes what the caller did to the Acquire in `Sitting::call`.
    let release = essential!(SeatCalled: Ordering::Release);
    if seat.word.compare_exchange(word, called, release, Ordering::Relaxed).is_err() {
        return false;
    }
    fault!(SeatCalled);
    wake(seat); // maybe somebody who has taken the seat since: that one looks and sleeps again
    true
}

/// Wakes one who was called.
fn wake(seat: &Seat) {
    essential!(SeatCounts: count(seat)); // after the word: whoever read the count before does not fall asleep
    fault!(SeatCounted);
    seat.calls.wake(1);
}

fn count(seat: &Seat) {
    // SYNC POINT: Release publishes the word to the Acquire in `Sitting::wait`.
    seat.calls.fetch_add(1, essential!(SeatCounted: Ordering::Release));
}

/// A seat that the caller waits in. It is given back when this is dropped.
#[derive(Debug)]
pub struct Sitting<'a> {
    seat: &'a Seat,
    /// The seat's word while the wait goes on.
    word: u64,
}

impl Sitting<'_> {
    /// The ticket that the seat was taken with.
    pub fn ticket(&self) -> u32 {
        ticket(self.word)
    }

    /// Waits for the call.
    ///
    /// # Errors
    /// [`WaitError`]: there was no call yet. The seat is kept: wait again, or [`Sitting::leave`].
    pub fn wait(&self, patience: &Patience<'_>) -> Result<Call, WaitError> {
        if let Some(call) = patience.spin(&mut || self.call()) {
            return Ok(call);
        }
        loop {
            // SYNC POINT: Acquire, before the look at the word.
            let seen = self.seat.calls.load(essential!(SeatSeen: Ordering::Acquire));
            if let Some(call) = self.call() {
                return Ok(call);
            }
            patience.sleep(&self.seat.calls, seen)?;
        }
    }

    /// The call, if it has come.
    pub fn call(&self) -> Option<Call> {
        // SYNC POINT: Acquire sees what the caller did before the Release in `end`.
        call(self.seat.word.load(essential!(SeatHeard: Ordering::Acquire)), self.word)
    }

    /// Gives the wait up: None, or the call if that came first.
    pub fn leave(self) -> Option<Call> {
        self.leave_with_mark().map(|(call, _)| call)
    }

    /// Gives the wait up: None, or the call and its mark if that came first.
    pub(crate) fn leave_with_mark(self) -> Option<(Call, u32)> {
        // Release: the next one here comes after us. Acquire as in `call`, when it fails.
        let heard = essential!(SeatHeard: Ordering::Acquire);
        match self.seat.word.compare_exchange(self.word, FREE, Ordering::Release, heard) {
            Ok(_) => {
                core::mem::forget(self);
                None
            }
            Err(word) => call(word, self.word).map(|call| (call, ticket(word))),
        }
    }
}

/// What ended the wait, if it has ended. If the seat was taken away, by whoever wrote over it, then it was in vain.
fn call(word: u64, waiting: u64) -> Option<Call> {
    match word & STATE {
        CALLED => Some(Call::Called),
        _ => (word != waiting || word & STATE == DISMISSED).then_some(Call::Dismissed),
    }
}

impl Drop for Sitting<'_> {
    fn drop(&mut self) {
        // An exchange, for somebody may be about to end a wait that is given up here. Release: the next one here comes
        // after us.
        self.seat.word.swap(FREE, Ordering::Release);
    }
}

const _: () = assert!(size_of::<Seat>() == 16 || cfg!(loom));
