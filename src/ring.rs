//! The queue's core: a lock-free, bounded, many-producer many-consumer ring, and a chain of such rings.
//!
//! # The ring
//! A producer claims a slot *in place*: one compare-and-swap turns its word from FREE into WRITING with the
//! producer's name in it. `tail` is only a hint that anybody may push forward, so a producer that stops between
//! the claim and the push holds nobody up, and there is no moment in which a slot is held anonymously. The
//! consumer's side is the same with READY, READING and `head`. (Dmitry Vyukov's bounded MPMC queue claims the
//! position first and marks the slot afterwards: faster by a few nanoseconds, but a producer that dies in between
//! leaves a hole without a name.)
//!
//! Who only looks at the oldest message claims its slot too, as PEEKING, and hands it back READY. `head` stays where it
//! is meanwhile, and consumers wait: to go past would be to take a later message first.
//!
//! Who puts or takes several messages claims each slot by itself, but goes from one to the next without a look at
//! `tail` or `head`, and pushes them past all of them at once: `tail` before the first is READY, `head` in the end.
//!
//! # The chain
//! A queue without a bound must not stop at a full ring. The producer that finds the slot of its position still
//! taken from the turn before *closes* this one at exactly that position, by a flag in that slot's word, and
//! links another ring:
//!
//! ```text
//!    ring A  … r r r R R R R R R R          positions 0 …            R READY, r read already
//!                    ^head     ^tail = 96, its slot still READY from the turn before: set CLOSED in its word
//!    ring B                    96 97 98 …   goes on with the same positions
//! ```
//!
//! No position at or after the closing one can be claimed in A any more, since claiming the first of them takes a
//! word without the flag, and claiming a later one a tail beyond it, or all the slots before it. Consumers that find
//! the closing position at `head` follow to B. A ring whose every slot is FREE behind the consumers is given back.
//!
//! A chain is *sealed* by the same means: its last ring is closed at `tail`, and marked as one that none follows. So
//! there is one moment from which on nothing is put, and consumers that come to that position know that nothing will.
//!
//! # Memory that comes back as another ring
//! A thread may hold a ring that was given back meanwhile and belongs to another queue now. Every word that it
//! could change there has a turn that it has never seen: turns only grow, across all the lives of the same
//! memory. And it can misread nothing either, because it looks again at `head_ring` or `tail_ring` after it read
//! the slot's word (`look`); these name the ring together with its generation. `head` and `tail` themselves belong
//! to the queue, not to the ring. Who goes on to the next slot without a look knows the turn that it should have.
//!
//! # Orderings
//! The slot's word hands meta and payload from one owner to the next: Release at the commit and at the hand-back,
//! Acquire in `look`, which needs none for the claim then. All that `look` reads is written by a Release, so that
//! whoever has read anything of a ring's next life sees afterwards that it was given back. (Loads and not a fence,
//! which ThreadSanitizer would not understand.)
#![forbid(unsafe_code)]

use core::cmp::Ordering as Compare;

use crossbeam_utils::CachePadded;

use crate::error::OutOfMemory;
use crate::layout::{INLINE_WORDS, Meta, PeerId, RingHeader, Slot};
use crate::sync::{AtomicU64, Ordering, essential};

const STATE: u64 = 7;
const FREE: u64 = 0;
const WRITING: u64 = 1;
const READY: u64 = 2;
const READING: u64 = 3;
const PEEKING: u64 = 4;
/// The ring ends at the position that this slot's next turn would have.
const CLOSED: u64 = 8;
const PEER_SHIFT: u32 = 4;
const TURN_SHIFT: u32 = 16;

const fn word(state: u64, turn: u64, peer: u16) -> u64 {
    turn << TURN_SHIFT | (peer as u64) << PEER_SHIFT | state
}

/// Names a ring: its block and how often that block had been taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingRef(u64);

impl RingRef {
    /// The ring in block `index`, taken for the `generation`-th time (from 1 on).
    pub fn new(index: u32, generation: u32) -> RingRef {
        RingRef(u64::from(generation) << 32 | u64::from(index))
    }

    /// The ring's block.
    pub fn index(self) -> u32 {
        self.0 as u32
    }

    /// How often the block had been taken.
    pub fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// What this ring's `next` holds while no ring follows. It differs in every life of the memory, so that a
    /// producer of an earlier life can't link its ring here.
    fn nothing_follows(self) -> u64 {
        u64::from(self.generation()) << 32 | u64::from(u32::MAX)
    }

    /// What its `next` holds when none will follow.
    fn nothing_will_follow(self) -> u64 {
        self.nothing_follows() - 1
    }

    /// The first turn of this life of the memory, greater than every turn of the lives before.
    ///
    /// 48 bits hold 2^28 turns of a life (2^33 messages at least) and 2^20 lives; turns are never 0, which is what
    /// memory fresh from the kernel holds.
    pub fn first_turn(self) -> u64 {
        ((u64::from(self.generation()) % ((1 << 20) - 1)) + 1) << 28
    }
}

/// A ring as it lies in memory.
#[derive(Clone, Copy, Debug)]
pub struct Ring<'a> {
    /// What the ring is.
    pub header: &'a RingHeader,
    /// Its slots; their number is a power of two.
    pub slots: &'a [Slot],
}

impl<'a> Ring<'a> {
    /// Prepares the ring for a first message at position `base`. Nobody else knows the ring yet.
    pub(crate) fn initialize(&self, reference: RingRef, base: u64) {
        // SYNC POINT: Release, not to publish the ring, which whoever links it does, but for those who still look at it
        // for what it was: they see that this is over.
        let ordering = essential!(NewLife: Ordering::Release);
        let turn = reference.first_turn();
        for slot in self.slots {
            slot.word.store(word(FREE, turn, 0), ordering);
        }
        self.header.base.store(base, ordering);
        self.header.turn.store(turn, ordering);
        self.header.next.store(reference.nothing_follows(), Ordering::Relaxed);
    }

    /// The ring as it is in this life of its memory.
    #[inline(always)]
    fn life(self) -> Life<'a> {
        let base = self.header.base.load(Ordering::Acquire);
        let turn = self.header.turn.load(Ordering::Acquire);
        Life { slots: self.slots, base, turn }
    }

    /// Whether no slot holds a message or is being written or read.
    fn is_quiet(&self) -> bool {
        // Acquire: what the last reader of a slot did comes before what the next owner of the memory does.
        self.slots.iter().all(|slot| slot.word.load(Ordering::Acquire) & STATE == FREE)
    }
}

/// A ring's slots in one life of its memory.
#[derive(Clone, Copy, Debug)]
struct Life<'a> {
    slots: &'a [Slot],
    base: u64,
    turn: u64,
}

/// A position in a ring.
#[derive(Clone, Copy, Debug)]
struct Spot<'a> {
    life: Life<'a>,
    position: u64,
    /// The position's slot,
    slot: &'a Slot,
    /// and the slot's turn at this position.
    turn: u64,
}

impl<'a> Life<'a> {
    #[inline(always)]
    fn spot(self, position: u64) -> Spot<'a> {
        let offset = position.wrapping_sub(self.base);
        let slot = &self.slots[offset as usize & (self.slots.len() - 1)];
        let turn = self.turn.wrapping_add(offset >> self.slots.len().trailing_zeros());
        Spot { life: self, position, slot, turn: turn & (u64::MAX >> TURN_SHIFT) }
    }
}

impl Spot<'_> {
    /// What the slot's word holds while it is ours in that state, but for CLOSED, which may be set at any time.
    #[inline(always)]
    fn ours(&self, state: u64, me: PeerId) -> u64 {
        word(state, self.turn, me.get())
    }

    /// Writes a cell to the slot, which is ours, and publishes it.
    #[inline(always)]
    fn write(&self, me: PeerId, cell: &Cell, on_claim: impl FnOnce()) {
        self.slot.meta.store(cell.meta, Ordering::Relaxed);
        let words = Meta::unpack(cell.meta).slot_words();
        for (to, from) in self.slot.payload.iter().zip(&cell.payload[..words]) {
            to.write(*from);
        }
        on_claim();
        // The commit: the message is in the queue. An addition, since CLOSED may have been set meanwhile.
        // SYNC POINT: Release publishes meta and payload to the look of the consumer.
        let change = word(READY, self.turn, 0).wrapping_sub(self.ours(WRITING, me));
        self.slot.word.fetch_add(change, essential!(Commit: Ordering::Release));
    }

    /// Claims the slot, whose message is READY as `seen` says, for `state`, and reads the message's meta; false if the
    /// word has changed.
    #[inline(always)]
    fn claim_ready(&self, seen: u64, state: u64, me: PeerId, most: u64, cell: &mut Cell) -> Result<bool, PopError> {
        // Read before the slot is ours: the claim fails if it was another message's in between.
        cell.meta = self.slot.meta.load(Ordering::Relaxed);
        let length = Meta::unpack(cell.meta).length;
        if length > most {
            return Err(PopError::Large(length));
        }
        let claimed = self.ours(state, me) | seen & CLOSED;
        // Relaxed: meta and payload were seen with the word.
        Ok(self.slot.word.compare_exchange(seen, claimed, Ordering::Relaxed, Ordering::Relaxed).is_ok())
    }

    /// Reads the payload of the message, whose slot is ours.
    #[inline(always)]
    fn read(&self, cell: &mut Cell) {
        let words = Meta::unpack(cell.meta).slot_words();
        for (to, from) in cell.payload[..words].iter_mut().zip(&self.slot.payload) {
            *to = from.read();
        }
    }

    /// Reads the message, whose slot is ours, and gives the slot to the producer of the next turn.
    #[inline(always)]
    fn take(&self, me: PeerId, cell: &mut Cell, on_claim: impl FnOnce(&Cell)) {
        self.read(cell);
        on_claim(cell);
        // An addition, as in `write`. SYNC POINT: Release, so that the next producer's bytes come after our reading.
        let change = word(FREE, self.turn + 1, 0).wrapping_sub(self.ours(READING, me));
        self.slot.word.fetch_add(change, essential!(HandBack: Ordering::Release));
    }
}

/// Where rings come from and go to.
pub trait Rings {
    /// The ring of that name, or of a later life of the same memory.
    fn ring(&self, reference: RingRef) -> Ring<'_>;

    /// A new ring of at least `slots` slots, not initialized.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn allocate(&self, slots: usize) -> Result<RingRef, OutOfMemory>;

    /// Takes a ring back that no queue names any more.
    fn free(&self, me: PeerId, reference: RingRef);
}

/// A message as a slot holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// [`Meta`], packed.
    pub meta: u64,
    /// As many words as `meta` tells; the rest is arbitrary.
    pub payload: [u64; INLINE_WORDS],
}

/// Why nothing was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// The chain holds as many messages as its limit allows.
    Full,
    /// The chain is sealed.
    Sealed,
    /// A new ring was needed and there is no memory for it.
    OutOfMemory(OutOfMemory),
}

/// Why nothing was popped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PopError {
    /// There is no message.
    Empty,
    /// The next message is just being written.
    Busy,
    /// Somebody just looks at the oldest message, which stays where it is.
    Peeked,
    /// There is no message, and there will be none: the chain is sealed.
    Ended,
    /// The oldest message has so many bytes, more than were asked for.
    Large(u64),
}

/// A queue of cells: rings linked one after another.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Chain {
    /// Producers' line.
    back: CachePadded<Back>,
    /// Consumers' line.
    front: CachePadded<Front>,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Back {
    /// No position before this one is free: a hint, pushed forward by whoever finds it behind.
    tail: AtomicU64,
    /// The ring that `tail` is in, or one before it.
    tail_ring: AtomicU64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Front {
    /// No position before this one holds a message: a hint, pushed forward by whoever finds it behind.
    head: AtomicU64,
    /// The ring that `head` is in, or one before it.
    head_ring: AtomicU64,
    /// The oldest ring that was not given back.
    first_ring: AtomicU64,
}

/// Slots of a queue's first ring, and the most that a later one has: each is twice as large as the one before.
#[cfg(not(loom))]
pub(crate) const FIRST_RING_SLOTS: usize = 32;
pub(crate) const MAX_RING_SLOTS: usize = 4096;

/// What stands for any number of messages.
pub(crate) const NO_LIMIT: u64 = u64::MAX;

/// The most slots that one producer has at a time: consumers wait for the first as long as it takes to claim them all.
const MOST_CLAIMED: usize = 16;

/// What one look at an end of the chain found.
struct Look<'r> {
    /// The ring's [`RingRef`].
    name: u64,
    ring: Ring<'r>,
    spot: Spot<'r>,
    /// What the slot's word held.
    seen: u64,
}

impl Look<'_> {
    /// Whether the ring ends at this position. CLOSED on a FREE word closes its own turn, on any other the next one.
    fn is_end(&self) -> bool {
        match (self.seen >> TURN_SHIFT).cmp(&self.spot.turn) {
            Compare::Less => self.seen & CLOSED != 0,
            Compare::Equal => self.seen == word(FREE, self.spot.turn, 0) | CLOSED,
            Compare::Greater => false,
        }
    }
}

/// Where a consumer goes on that takes several messages; see [`Chain::pop_next`].
#[derive(Clone, Copy, Debug)]
pub struct Place<'r> {
    life: Life<'r>,
    position: u64,
    /// How far `head` was pushed.
    told: u64,
}

/// Looks at the slot of the position that `hint` holds.
///
/// The ring may be given back at any time and live again. If it is still the one that `ring_name` names after all
/// has been read, then it was that all along: position, slot and word belong together.
#[inline(always)]
fn look<'r>(rings: &'r impl Rings, ring_name: &AtomicU64, hint: &AtomicU64) -> Look<'r> {
    loop {
        // SYNC POINT: Acquire sees the ring initialized.
        let name = ring_name.load(essential!(RingSeen: Ordering::Acquire));
        let ring = rings.ring(RingRef(name));
        // SYNC POINT: Acquire; whoever pushed the hint there knew the ring that the position is in.
        let position = hint.load(essential!(HintSeen: Ordering::Acquire));
        let spot = ring.life().spot(position);
        // SYNC POINT: Acquire; what the slot's last owner did is done.
        let seen = spot.slot.word.load(essential!(WordSeen: Ordering::Acquire));
        if essential!(SameRing: ring_name.load(Ordering::Relaxed) != name) {
            continue;
        }
        return Look { name, ring, spot, seen };
    }
}

impl Chain {
    /// Gives the chain its first ring. Nobody else knows the chain yet.
    pub fn initialize(&self, rings: &impl Rings, slots: usize) -> Result<(), OutOfMemory> {
        let reference = rings.allocate(slots)?;
        rings.ring(reference).initialize(reference, 0);
        self.back.tail_ring.store(reference.0, Ordering::Relaxed);
        self.front.head_ring.store(reference.0, Ordering::Relaxed);
        self.front.first_ring.store(reference.0, Ordering::Relaxed);
        Ok(())
    }

    /// Appends a cell, unless the chain holds `limit` already.
    ///
    /// `on_claim` runs when the cell is written and not yet published: what the cell names changes hands there.
    ///
    /// # Errors
    /// [`PushError`]; nothing was taken then.
    #[inline]
    pub fn push(
        &self,
        rings: &impl Rings,
        me: PeerId,
        limit: u64,
        cell: &Cell,
        on_claim: impl Fn(),
    ) -> Result<(), PushError> {
        self.push_some(rings, me, limit, 1, |_| cell, |_| on_claim()).map(|_| ())
    }

    /// Appends some of `count` cells in their order, at least the first one, unless the chain holds `limit` already; how
    /// many. Cells of others come before or after them.
    ///
    /// `on_claim` runs for each as in [`Chain::push`].
    ///
    /// # Errors
    /// [`PushError`]; nothing was taken then.
    #[inline(always)]
    pub fn push_some<'c>(
        &self,
        rings: &impl Rings,
        me: PeerId,
        limit: u64,
        count: usize,
        cell: impl Fn(usize) -> &'c Cell,
        on_claim: impl Fn(usize),
    ) -> Result<usize, PushError> {
        let first = self.claim_free(rings, me, limit)?;
        let mut claimed = 1;
        while claimed < count.min(MOST_CLAIMED) && self.claim_next(&first, claimed as u64, me, limit) {
            claimed += 1;
        }
        // Before a consumer can take one: `head` is never beyond `tail`.
        essential!(TailFirst: advance(&self.back.tail, first.position, first.position + claimed as u64));
        for place in 0..claimed {
            first.life.spot(first.position + place as u64).write(me, cell(place), || on_claim(place));
        }
        Ok(claimed)
    }

    /// Claims the first free slot.
    #[inline(always)]
    fn claim_free<'r>(&self, rings: &'r impl Rings, me: PeerId, limit: u64) -> Result<Spot<'r>, PushError> {
        loop {
            let look = look(rings, &self.back.tail_ring, &self.back.tail);
            let Look { spot: spot @ Spot { position, slot, turn, .. }, seen, .. } = look;
            match (seen >> TURN_SHIFT).cmp(&turn) {
                Compare::Equal if seen == word(FREE, turn, 0) => {
                    if self.seems_full(position, limit) && self.is_full(rings, limit) {
                        return Err(PushError::Full);
                    }
                    // The claim. Release: whoever finds the slot claimed, and pushes `tail`, knows how far `head` was
                    // for us. What the last reader of the slot did was seen by `look`.
                    let ordering = essential!(Claim: Ordering::Release);
                    if slot.word.compare_exchange(seen, spot.ours(WRITING, me), ordering, Ordering::Relaxed).is_ok() {
                        return Ok(spot);
                    }
                }
                _ if look.is_end() => self.go_on(rings, me, &look)?,
                // Still taken from the turn before: the ring is full.
                Compare::Less => {
                    if self.seems_full(position, limit) && self.is_full(rings, limit) {
                        return Err(PushError::Full);
                    }
                    // The close. It fails if the slot's state changed: then there may be room.
                    let _ = slot.word.compare_exchange(seen, seen | CLOSED, Ordering::Relaxed, Ordering::Relaxed);
                }
                // Somebody claimed the position and did not push `tail` yet.
                Compare::Equal | Compare::Greater => advance(&self.back.tail, position, position + 1),
            }
        }
    }

    /// Claims the slot `offset` positions behind `first`, if it is free. All before it are ours: so the ring does not end
    /// before it, and stays a ring of this chain.
    #[inline(always)]
    fn claim_next(&self, first: &Spot<'_>, offset: u64, me: PeerId, limit: u64) -> bool {
        let spot = first.life.spot(first.position + offset);
        let free = word(FREE, spot.turn, 0);
        // SYNC POINT: Acquire; what the last reader of the slot did is done.
        spot.slot.word.load(essential!(NextSeen: Ordering::Acquire)) == free
            && !self.seems_full(spot.position, limit)
            // As in `claim_free`.
            && spot.slot.word.compare_exchange(free, spot.ours(WRITING, me), Ordering::Release, Ordering::Relaxed).is_ok()
    }

    /// Takes the oldest cell, unless its message has more than `most` bytes. What is in `cell` is arbitrary if it fails.
    /// Gives the place behind it, for [`Chain::pop_next`].
    ///
    /// `on_claim` runs while the slot still names the consumer: what the cell names changes hands there.
    ///
    /// # Errors
    /// [`PopError`].
    #[inline]
    pub fn pop<'r>(
        &self,
        rings: &'r impl Rings,
        me: PeerId,
        most: u64,
        cell: &mut Cell,
        on_claim: impl FnOnce(&Cell),
    ) -> Result<Place<'r>, PopError> {
        let spot = self.claim_oldest(rings, me, most, READING, cell)?;
        let next = spot.position + 1;
        advance(&self.front.head, spot.position, next);
        spot.take(me, cell, on_claim);
        Ok(Place { life: spot.life, position: next, told: next })
    }

    /// Takes the next cell, if it is there and its message has not more than `most` bytes; whether it was taken.
    ///
    /// `head` stays behind until [`Chain::leave_place`], but for others who find it there. The ring may be another's
    /// meanwhile: no word in it has a turn of this life then.
    #[inline]
    pub fn pop_next(
        &self,
        me: PeerId,
        most: u64,
        cell: &mut Cell,
        on_claim: impl FnOnce(&Cell),
        place: &mut Place<'_>,
    ) -> bool {
        let spot = place.life.spot(place.position);
        // SYNC POINT: Acquire; the message is written.
        let seen = spot.slot.word.load(essential!(NextSeen: Ordering::Acquire));
        let is_ready = seen & !CLOSED == word(READY, spot.turn, 0);
        let is_taken = is_ready && spot.claim_ready(seen, READING, me, most, cell) == Ok(true);
        if is_taken {
            spot.take(me, cell, on_claim);
            place.position += 1;
        }
        is_taken
    }

    /// Pushes `head` to the place.
    pub fn leave_place(&self, place: Place<'_>) {
        advance(&self.front.head, place.told, place.position);
    }

    /// Copies the oldest cell and leaves it, unless its message has more than `most` bytes. What is in `cell` is
    /// arbitrary if it fails.
    ///
    /// `on_claim` runs while the slot names the caller: what the cell names stays as long.
    ///
    /// # Errors
    /// [`PopError`].
    pub fn peek(
        &self,
        rings: &impl Rings,
        me: PeerId,
        most: u64,
        cell: &mut Cell,
        on_claim: impl FnOnce(&Cell),
    ) -> Result<(), PopError> {
        let spot = self.claim_oldest(rings, me, most, PEEKING, cell)?;
        spot.read(cell);
        on_claim(cell);
        // As it was before. An addition, as in `write`.
        // SYNC POINT: Release; our reading comes before that of the consumer, whom the next producer waits for.
        let change = word(READY, spot.turn, 0).wrapping_sub(spot.ours(PEEKING, me));
        spot.slot.word.fetch_add(change, essential!(PutBack: Ordering::Release));
        Ok(())
    }

    /// Claims the slot of the oldest cell for `state`, and reads the cell's meta.
    #[inline(always)]
    fn claim_oldest<'r>(
        &self,
        rings: &'r impl Rings,
        me: PeerId,
        most: u64,
        state: u64,
        cell: &mut Cell,
    ) -> Result<Spot<'r>, PopError> {
        loop {
            let look = look(rings, &self.front.head_ring, &self.front.head);
            let Look { spot: spot @ Spot { position, turn, .. }, seen, .. } = look;
            match (seen >> TURN_SHIFT).cmp(&turn) {
                Compare::Equal if seen & STATE == READY => {
                    if spot.claim_ready(seen, state, me, most, cell)? {
                        return Ok(spot);
                    }
                }
                Compare::Equal if seen & STATE == WRITING => return Err(PopError::Busy),
                Compare::Equal if essential!(PeekedStays: seen & STATE == PEEKING) => return Err(PopError::Peeked),
                // Closed and drained: on to the next ring, if a producer has linked it yet.
                _ if look.is_end() => self.leave(rings, me, &look)?,
                Compare::Equal if seen & STATE == FREE => return Err(PopError::Empty),
                // Nobody wrote this turn yet: the slot is still being read in the turn before.
                Compare::Less => return Err(PopError::Empty),
                // Somebody took the position and did not push `head` yet.
                Compare::Equal | Compare::Greater => advance(&self.front.head, position, position + 1),
            }
        }
    }

    /// Whether the oldest message is just being written, or looked at: whoever does that is done soon.
    pub fn is_busy(&self, rings: &impl Rings) -> bool {
        let Look { spot: Spot { turn, .. }, seen, .. } = look(rings, &self.front.head_ring, &self.front.head);
        seen >> TURN_SHIFT == turn && matches!(seen & STATE, WRITING | PEEKING)
    }

    /// How many messages there are: written, or being written.
    #[inline]
    pub fn len(&self) -> u64 {
        loop {
            let tail = self.back.tail.load(Ordering::Acquire);
            let head = self.front.head.load(Ordering::Acquire);
            // Any number may have come and gone between the two.
            if self.back.tail.load(Ordering::Relaxed) == tail {
                return tail - head;
            }
        }
    }

    /// Whether there is no message.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many messages were ever pushed.
    pub fn pushed(&self) -> u64 {
        self.back.tail.load(Ordering::Acquire)
    }

    /// Gives every ring back. The caller is the only one who knows the chain, and has emptied it.
    pub fn destroy(&self, rings: &impl Rings, me: PeerId) {
        let mut name = self.front.first_ring.load(Ordering::Acquire);
        loop {
            let next = rings.ring(RingRef(name)).header.next.load(Ordering::Acquire);
            rings.free(me, RingRef(name));
            if next == RingRef(name).nothing_follows() || next == RingRef(name).nothing_will_follow() {
                return;
            }
            name = next;
        }
    }

    /// How many messages were ever popped.
    pub fn popped(&self) -> u64 {
        self.front.head.load(Ordering::Acquire)
    }

    /// Whether there may be `limit` messages before `position`.
    #[inline(always)]
    fn seems_full(&self, position: u64, limit: u64) -> bool {
        // Without a limit, producers leave the consumers' line alone. Saturating: the message of that position may have
        // been put and got since the position was read.
        limit != NO_LIMIT && position.saturating_sub(self.front.head.load(Ordering::Acquire)) >= limit
    }

    /// Whether `limit` messages are there for sure: pushes `head` past what was claimed by then.
    #[cold]
    fn is_full(&self, rings: &impl Rings, limit: u64) -> bool {
        loop {
            // Before the look: what was put later may have found room that the look does not show.
            let tail = self.back.tail.load(Ordering::Acquire);
            let look = look(rings, &self.front.head_ring, &self.front.head);
            let Look { spot: Spot { position: head, turn, .. }, seen, .. } = look;
            if tail.saturating_sub(head) < limit {
                return false;
            }
            let claimed = match (seen >> TURN_SHIFT).cmp(&turn) {
                Compare::Greater => true,
                Compare::Equal => seen & STATE == READING,
                Compare::Less => false,
            };
            if !claimed {
                return true;
            }
            advance(&self.front.head, head, head + 1);
        }
    }

    /// Lets nothing in any more. What was pushed before can be popped; then [`PopError::Ended`] says that it is all.
    #[cold]
    pub fn seal(&self, rings: &impl Rings) {
        loop {
            let look = look(rings, &self.back.tail_ring, &self.back.tail);
            let Look { spot: Spot { position, slot, turn, .. }, seen, .. } = look;
            if look.is_end() {
                let reference = RingRef(look.name);
                let (nothing, never) = (reference.nothing_follows(), reference.nothing_will_follow());
                match look.ring.header.next.compare_exchange(nothing, never, Ordering::Relaxed, Ordering::Acquire) {
                    Ok(_) => return,
                    Err(next) if next == never => return,
                    Err(next) => self.move_on(&look, next),
                }
            } else if seen >> TURN_SHIFT < turn || seen == word(FREE, turn, 0) {
                // The close, as in `push`, and of a slot that nobody has claimed yet.
                let _ = slot.word.compare_exchange(seen, seen | CLOSED, Ordering::Relaxed, Ordering::Relaxed);
            } else {
                advance(&self.back.tail, position, position + 1);
            }
        }
    }

    /// Moves producers from a ring that is closed to the one behind it, which is made if need be.
    #[cold]
    fn go_on(&self, rings: &impl Rings, me: PeerId, look: &Look<'_>) -> Result<(), PushError> {
        let Look { name, ring, spot: Spot { position, .. }, .. } = *look;
        let nothing = RingRef(name).nothing_follows();
        let mut next = ring.header.next.load(Ordering::Acquire);
        if next == nothing {
            let fresh = rings.allocate((2 * ring.slots.len()).min(MAX_RING_SLOTS)).map_err(PushError::OutOfMemory)?;
            rings.ring(fresh).initialize(fresh, position);
            // The link. SYNC POINT: Release publishes the initialized ring.
            let ordering = essential!(Link: Ordering::Release);
            match ring.header.next.compare_exchange(nothing, fresh.0, ordering, Ordering::Acquire) {
                Ok(_) => next = fresh.0,
                Err(linked) => {
                    rings.free(me, fresh);
                    next = linked;
                }
            }
        }
        if next == RingRef(name).nothing_will_follow() {
            return Err(PushError::Sealed);
        }
        self.move_on(look, next);
        Ok(())
    }

    /// Makes `next` the ring that producers go to.
    fn move_on(&self, look: &Look<'_>, next: u64) {
        // SYNC POINT: Release hands the initialized ring on. Failure: somebody else did it, perhaps long ago, so that
        // `next` may be anything.
        let ordering = essential!(MoveOn: Ordering::Release);
        let _ = self.back.tail_ring.compare_exchange(look.name, next, ordering, Ordering::Relaxed);
    }

    /// Moves consumers from a ring that is closed and drained to the one behind it.
    #[cold]
    fn leave(&self, rings: &impl Rings, me: PeerId, look: &Look<'_>) -> Result<(), PopError> {
        let next = look.ring.header.next.load(Ordering::Acquire);
        if next == RingRef(look.name).nothing_follows() {
            return Err(PopError::Empty);
        }
        if next == RingRef(look.name).nothing_will_follow() {
            return Err(PopError::Ended);
        }
        // SYNC POINT: Release hands the initialized ring on. Failure as in `move_on`.
        let ordering = essential!(Leave: Ordering::Release);
        let _ = self.front.head_ring.compare_exchange(look.name, next, ordering, Ordering::Relaxed);
        self.give_back(rings, me);
        Ok(())
    }

    /// Gives back the rings that both ends have left, as far as nobody reads in them any more.
    #[cold]
    fn give_back(&self, rings: &impl Rings, me: PeerId) {
        loop {
            let first = self.front.first_ring.load(Ordering::Acquire);
            if first == self.front.head_ring.load(Ordering::Acquire)
                || essential!(ProducersLeft: first == self.back.tail_ring.load(Ordering::Acquire))
            {
                return;
            }
            let ring = rings.ring(RingRef(first));
            let next = ring.header.next.load(Ordering::Acquire);
            if essential!(ReadersLeft: !ring.is_quiet()) {
                return; // its last reader is not done; the next one who leaves a ring comes back to it
            }
            // AcqRel: the winner alone frees it. A ring that was freed and lives again has another generation.
            if self.front.first_ring.compare_exchange(first, next, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                rings.free(me, RingRef(first));
            }
        }
    }
}

/// Pushes a hint from a position, or where it is now, to another; all before that one are known to be claimed.
#[inline(always)]
fn advance(hint: &AtomicU64, from: u64, to: u64) {
    let mut at = from;
    // SYNC POINT: Release, so that whoever looks there has seen the claim, and the ring. Failure: others push it, too.
    while at < to
        && let Err(now) = hint.compare_exchange(at, to, essential!(Advance: Ordering::Release), Ordering::Relaxed)
    {
        at = now;
    }
}
