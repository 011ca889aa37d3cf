//! Messages in blocks of their own: those that come back from a participant that died.
//!
//! An envelope has all that a slot has of a message. A message that a dead consumer had not got yet is put into one; in
//! a queue that delivers again every message is in one from the start, and stays with its consumer until it is
//! acknowledged. Envelopes that came back are a list, oldest first, which consumers empty before they look at the ring.
//! All changes of the list are transactions (see `heap`).
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::thread::{ThreadId, current};

use parking_lot::Mutex;

use crate::error::OutOfMemory;
use crate::layout::{Envelope, Meta, PeerId};
use crate::object::{Message, Region};
use crate::ring::Cell;
use crate::sync::{AtomicU64, Ordering};

/// Marks the name of an envelope, which is its block's index otherwise.
const NAMED: u64 = 1 << 32;
/// Names no envelope.
const NONE: u64 = 0;
/// So many are looked at to find one's place. More have not come back, or somebody wrote over them.
const MOST: u64 = 1 << 20;

impl Envelope {
    /// What a slot would hold of its message.
    pub(crate) fn cell(&self) -> Cell {
        let mut cell = Cell { meta: self.meta.load(Ordering::Relaxed), ..Cell::default() };
        for (to, from) in cell.payload.iter_mut().zip(&self.payload) {
            *to = from.read();
        }
        cell
    }

    /// Writes it, for the queue of that name. The envelope is the caller's.
    pub(crate) fn fill(&self, cell: &Cell, queue: u64) {
        self.next.store(NONE, Ordering::Relaxed);
        self.queue.store(queue, Ordering::Relaxed);
        // Behind all the others, should its consumer die before it has said which one it is.
        self.position.store(u64::MAX, Ordering::Relaxed);
        self.meta.store(cell.meta & !Meta::ENVELOPED, Ordering::Relaxed);
        for (to, from) in self.payload.iter().zip(&cell.payload) {
            to.write(*from);
        }
    }

    /// The block of its message, if there is one.
    pub(crate) fn block(&self) -> Option<u32> {
        let meta = Meta::unpack(self.meta.load(Ordering::Relaxed));
        (!meta.is_inline()).then(|| self.payload[0].read() as u32)
    }
}

/// A new envelope, which is `me`'s.
pub(crate) fn make(region: &Region, me: PeerId, cell: &Cell, queue: u64) -> Result<u32, OutOfMemory> {
    let index = region.heap().take(me, size_of::<Envelope>())?;
    if let Some(envelope) = region.envelope(index) {
        envelope.fill(cell, queue);
    }
    Ok(index)
}

/// Puts the message into an envelope, as the ring of a queue that delivers again holds it.
pub(crate) fn wrap(message: &mut Message<'_>, region: &Region, me: PeerId, queue: u64) -> Result<(), OutOfMemory> {
    let cell = message.cell_mut();
    cell.meta = cell.meta & !Meta::REDELIVERED | Meta::COMPLETE;
    let index = make(region, me, cell, queue)?;
    cell.meta |= Meta::ENVELOPED;
    cell.payload[0] = u64::from(index);
    Ok(())
}

/// Takes the message out of its envelope, if it is in one; both are the caller's.
#[inline(always)]
pub(crate) fn unwrap(message: &mut Message<'_>, region: &Region, me: PeerId) {
    if message.cell().meta & Meta::ENVELOPED != 0 {
        open(message.cell_mut(), region, me);
    }
}

#[cold]
fn open(cell: &mut Cell, region: &Region, me: PeerId) {
    let index = cell.payload[0] as u32;
    *cell = region.envelope(index).map(Envelope::cell).unwrap_or_default();
    region.heap().give_back(me, index);
}

/// Envelopes that came back, by their positions. All zero bytes are an empty list.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Returned {
    first: AtomicU64,
    last: AtomicU64,
    count: AtomicU64,
}

fn find(region: &Region, name: u64) -> Option<(u32, &Envelope)> {
    let index = name as u32;
    (name & NAMED != 0).then(|| region.envelope(index)).flatten().map(|envelope| (index, envelope))
}

impl Returned {
    /// How many there are.
    #[inline(always)]
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// The first one. In a transaction.
    pub(crate) fn first<'r>(&self, region: &'r Region) -> Option<(u32, &'r Envelope)> {
        find(region, self.first.load(Ordering::Acquire))
    }

    /// Forgets all of them, as a part of a transaction: somebody wrote over the list.
    pub(crate) fn forget(&self, set: &mut dyn FnMut(&AtomicU64, u64)) {
        [&self.first, &self.last, &self.count].into_iter().for_each(|word| set(word, 0));
    }

    /// Adds one that is in no list, as a part of a transaction.
    pub(crate) fn insert(&self, region: &Region, index: u32, set: &mut dyn FnMut(&AtomicU64, u64)) {
        let Some(envelope) = region.envelope(index) else { return };
        let position = envelope.position.load(Ordering::Relaxed);
        let is_before = |other: &Envelope| other.position.load(Ordering::Relaxed) <= position;
        let name = NAMED | u64::from(index);
        let count = self.count.load(Ordering::Relaxed);
        let last = find(region, self.last.load(Ordering::Relaxed));
        // Most come back in their order.
        let mut before = last.filter(|(_, last)| is_before(last));
        if before.is_none() {
            let mut next = self.first(region);
            for _ in 0..count.min(MOST) {
                let Some((_, envelope)) = next.filter(|(_, envelope)| is_before(envelope)) else { break };
                before = next;
                next = find(region, envelope.next.load(Ordering::Relaxed));
            }
        }
        let link = before.map_or(&self.first, |(_, before)| &before.next);
        let next = link.load(Ordering::Relaxed);
        set(&envelope.next, next);
        set(link, name);
        if find(region, next).is_none() {
            set(&self.last, name);
        }
        set(&self.count, count.wrapping_add(1));
    }

    /// Takes the first one away, as a part of a transaction.
    pub(crate) fn remove_first(&self, region: &Region, set: &mut dyn FnMut(&AtomicU64, u64)) {
        let Some((_, envelope)) = self.first(region) else { return };
        let next = envelope.next.load(Ordering::Relaxed);
        set(&self.first, next);
        if find(region, next).is_none() {
            set(&self.last, NONE);
        }
        set(&self.count, self.count.load(Ordering::Relaxed).saturating_sub(1));
    }
}

/// A message that somebody got and did not acknowledge.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    pub(crate) index: u32,
    /// Whose the envelope is.
    pub(crate) peer: PeerId,
    is_redelivered: bool,
    thread: ThreadId,
}

/// What this process's threads got and did not acknowledge, of each queue in the order in which they got it. Others
/// need not know of it: what they find when the process has died are the envelopes.
#[derive(Debug, Default)]
pub(crate) struct AllTaken(Mutex<HashMap<u64, VecDeque<Taken>>>);

impl AllTaken {
    /// This thread got that message.
    pub(crate) fn add(&self, queue: u64, peer: PeerId, index: u32, is_redelivered: bool) {
        let taken = Taken { index, peer, is_redelivered, thread: current().id() };
        self.0.lock().entry(queue).or_default().push_back(taken);
    }

    /// Takes away the oldest that this thread got, or else the process's oldest.
    pub(crate) fn remove_oldest(&self, queue: u64) -> Option<Taken> {
        let mut all = self.0.lock();
        let taken = all.get_mut(&queue)?;
        let thread = current().id();
        let mine = taken.iter().position(|taken| taken.thread == thread).unwrap_or(0);
        let removed = taken.remove(mine);
        if taken.is_empty() {
            all.remove(&queue);
        }
        removed
    }

    /// Puts back what was taken away and is not acknowledged after all.
    pub(crate) fn restore(&self, queue: u64, taken: Taken) {
        self.0.lock().entry(queue).or_default().push_front(taken);
    }

    /// Forgets an envelope that goes back to its queue.
    pub(crate) fn forget(&self, queue: u64, index: u32) {
        let mut all = self.0.lock();
        if let Some(taken) = all.get_mut(&queue) {
            taken.retain(|taken| taken.index != index);
            if taken.is_empty() {
                all.remove(&queue);
            }
        }
    }

    /// Forgets a queue.
    pub(crate) fn remove_queue(&self, queue: u64) -> VecDeque<Taken> {
        self.0.lock().remove(&queue).unwrap_or_default()
    }

    /// Whether the message that this thread got last, and did not acknowledge, had been got before.
    pub(crate) fn is_redelivered(&self, queue: u64) -> bool {
        let thread = current().id();
        let all = self.0.lock();
        let last = all.get(&queue).and_then(|taken| taken.iter().rev().find(|taken| taken.thread == thread));
        last.is_some_and(|taken| taken.is_redelivered)
    }
}
