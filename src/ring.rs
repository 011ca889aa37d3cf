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
//! # When a participant dies
//! It may be killed between any two instructions, and leaves slots behind that name it. The slot's meta tells what
//! became of the message ([`Chain::recover`]): it has no [`Meta::COMPLETE`] while the slot is FREE, gets it when the
//! message is written, and loses it when the consumer has all of it.
//!
//! | it left | meta | the message | the slot |
//! |---|---|---|---|
//! | WRITING | not complete | there is none: a *hole*, a turn that nobody gets | FREE of the next turn |
//! | WRITING | complete | is in the queue | READY |
//! | READING | complete | goes back to the queue | FREE of the next turn |
//! | READING | not complete | was the consumer's | FREE of the next turn |
//! | PEEKING | complete | stays where it is | READY |
//!
//! Nobody else changes these slots meanwhile, but for CLOSED, and each change can be made again: whoever recovers may
//! be killed, too. What cannot be made again (a count, a link in a list) changes together with the slot's meta, both or
//! none ([`Recovery`]). A ring is linked or unlinked and changes its owner in one step ([`Rings`]).
//!
//! A ring in which a dead participant has a slot is not quiet: so it is not given back before that is put right.
//!
//! # Orderings
//! The slot's word hands meta and payload from one owner to the next: Release at the commit and at the hand-back,
//! Acquire in `look`, which needs none for the claim then. All that `look` reads is written by a Release, so that
//! whoever has read anything of a ring's next life sees afterwards that it was given back. (Loads and not a fence,
//! which ThreadSanitizer would not understand.) For recovery, each step is a Release, so that the compiler keeps them
//! in their order: what a killed participant did is there, and nothing behind it.
#![forbid(unsafe_code)]

use core::cmp::Ordering as Compare;

use crossbeam_utils::CachePadded;

use crate::error::OutOfMemory;
use crate::fault::fault;
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
const PEER: u64 = 0xFFF << PEER_SHIFT;
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
    /// Its slots; their number is a power of two, and never 0.
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
        self.header.next.store(reference.nothing_follows(), ordering);
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

    /// The position that the slot of that place has at that turn.
    fn position(self, place: usize, turn: u64) -> u64 {
        let turns = turn.wrapping_sub(self.turn) & (u64::MAX >> TURN_SHIFT);
        self.base.wrapping_add((turns << self.slots.len().trailing_zeros()).wrapping_add(place as u64))
    }
}

impl Spot<'_> {
    /// What the slot's word holds while it is ours in that state, but for CLOSED, which may be set at any time.
    #[inline(always)]
    fn ours(&self, state: u64, me: PeerId) -> u64 {
        word(state, self.turn, me.get())
    }

    /// Gives up the slot, which is `owner`'s in the state `from`, for the state `to` of that turn.
    ///
    /// By an addition, since CLOSED may be set at any time.
    #[inline(always)]
    fn hand_on(&self, owner: PeerId, from: u64, to: u64, turn: u64, ordering: Ordering) {
        let change = word(to, turn, 0).wrapping_sub(self.ours(from, owner));
        self.slot.word.fetch_add(change, ordering);
    }

    /// Writes a cell to the slot, which is ours, and publishes it.
    #[inline(always)]
    fn write(&self, me: PeerId, cell: &Cell, on_claim: impl FnOnce()) {
        for (to, from) in self.slot.payload.iter().zip(&cell.payload[..Meta::slot_words(cell.meta)]) {
            to.write(*from);
        }
        fault!(PayloadWritten);
        // From here on the message is complete, whatever becomes of us: Release, so that the payload is there first.
        self.slot.meta.store(cell.meta & !Meta::REDELIVERED | Meta::COMPLETE, Ordering::Release);
        fault!(MetaWritten);
        on_claim();
        fault!(HandedOver);
        // The commit: the message is in the queue.
        // SYNC POINT: Release publishes meta and payload to the look of the consumer.
        self.hand_on(me, WRITING, READY, self.turn, essential!(Commit: Ordering::Release));
        fault!(Committed);
    }

    /// Claims the slot, whose message is READY as `seen` says, for `state`, and reads the message's meta; false if the
    /// word has changed.
    #[inline(always)]
    fn claim_ready(&self, seen: u64, state: u64, me: PeerId, most: u64, cell: &mut Cell) -> Result<bool, PopError> {
        // Read before the slot is ours: the claim fails if it was another message's in between.
        cell.meta = self.slot.meta.load(Ordering::Relaxed);
        let length = Meta::unpack(cell.meta).room();
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
        let words = Meta::slot_words(cell.meta);
        for (to, from) in cell.payload[..words].iter_mut().zip(&self.slot.payload) {
            *to = from.read();
        }
    }

    /// Reads the message, whose slot is ours, and gives the slot to the producer of the next turn.
    #[inline(always)]
    fn take(&self, me: PeerId, cell: &mut Cell, on_claim: impl FnOnce(&Cell)) {
        self.read(cell);
        fault!(MessageRead);
        on_claim(cell);
        fault!(TakenOver);
        // From here on the message is ours, and goes with us: Release, so that all of it is there first.
        self.slot.meta.store(0, Ordering::Release);
        fault!(MetaCleared);
        // SYNC POINT: Release, so that the next producer's bytes come after our reading.
        self.hand_on(me, READING, FREE, self.turn + 1, essential!(HandBack: Ordering::Release));
        fault!(HandedBack);
    }
}

/// Where rings come from and go to.
///
/// `link` and `unlink` change all that they say or nothing, also if the caller is killed. What they change they change
/// with Release, and read with Acquire.
pub trait Rings {
    /// The ring of that name, or of a later life of the same memory. None if no ring can have the name: it was read from
    /// memory that somebody wrote over.
    fn ring(&self, reference: RingRef) -> Option<Ring<'_>>;

    /// A new ring of at least `slots` slots, not initialized, which is `me`'s until it is linked.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    fn allocate(&self, me: PeerId, slots: usize) -> Result<RingRef, OutOfMemory>;

    /// Changes `word` from `expected` to `new`, and with it `fresh` stops to be `me`'s and belongs to the chain.
    ///
    /// # Errors
    /// What the word holds, if it is something else; nothing has changed then.
    fn link(&self, me: PeerId, word: &AtomicU64, expected: u64, new: u64, fresh: Option<RingRef>) -> Result<(), u64>;

    /// Changes `first` from `ring` to `following`, and with it frees the ring; false if it holds something else.
    fn unlink(&self, me: PeerId, first: &AtomicU64, ring: RingRef, following: u64) -> bool;

    /// Takes a ring back that was never linked.
    fn free(&self, me: PeerId, reference: RingRef);
}

/// What [`Chain::recover`] needs of whoever uses the chain.
pub trait Recovery {
    /// Makes the changes that `plan` tells, all or none, and counts one message that was put and will not be got. Nobody
    /// else makes such changes meanwhile.
    fn skip(&mut self, plan: impl FnOnce(&mut dyn FnMut(&AtomicU64, u64)));

    /// The cell is in the queue: what it names is the queue's.
    fn complete(&mut self, cell: &Cell);

    /// The cell of that position goes back to those who get, and with it `meta` becomes 0, both or none. False if there
    /// is no memory for it now.
    fn put_back(&mut self, cell: &Cell, position: u64, meta: &AtomicU64) -> bool;
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
    /// The memory holds something that no chain ever wrote.
    Corrupt,
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
    /// The memory holds something that no chain ever wrote.
    Corrupt,
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
    /// The oldest ring that was not given back. 0 while there is none: a chain that is not made yet, or not any more.
    first_ring: AtomicU64,
    holes: Holes,
}

/// Where turns are that nobody gets, and that consumers have not passed yet. Written by recovery only.
#[repr(C)]
#[derive(Debug, Default)]
struct Holes {
    /// No hole is at this position, or behind it.
    end: AtomicU64,
    /// Holes one behind the other: the first one's position, times 256, and how many there are. Producers that claim
    /// several slots and are killed leave as many.
    rows: [AtomicU64; 8],
}

impl Holes {
    /// How many are between the two positions.
    #[inline(always)]
    fn count(&self, from: u64, to: u64) -> u64 {
        if self.end.load(Ordering::Acquire) <= from { 0 } else { self.count_rows(from, to) }
    }

    #[cold]
    fn count_rows(&self, from: u64, to: u64) -> u64 {
        let inside = |row: &AtomicU64| {
            let (start, end) = Self::row(row);
            end.min(to).saturating_sub(start.max(from))
        };
        self.rows.iter().map(inside).sum()
    }

    /// First position of a row, and the one behind the last.
    fn row(row: &AtomicU64) -> (u64, u64) {
        let row = row.load(Ordering::Acquire);
        (row >> 8, (row >> 8) + (row & 0xFF))
    }

    /// Adds the hole at that position. Where `head` is no row is needed any more. Should there be more rows than places
    /// then it is not counted: the chain seems longer until consumers have passed the hole.
    fn add(&self, position: u64, head: u64, set: &mut dyn FnMut(&AtomicU64, u64)) {
        let rows = || self.rows.iter().map(|row| (row, Self::row(row)));
        if let Some((row, (start, end))) = rows().find(|(_, (start, end))| *end == position && end - start < 0xFF) {
            set(row, start << 8 | (end + 1 - start));
        } else if let Some((row, _)) = rows().find(|(_, (_, end))| *end <= head) {
            set(row, position << 8 | 1);
        }
        set(&self.end, self.end.load(Ordering::Acquire).max(position + 1));
    }
}

/// Slots of a queue's first ring, and the most that a later one has: each is twice as large as the one before.
#[cfg(not(loom))]
pub(crate) const FIRST_RING_SLOTS: usize = 32;
pub(crate) const MAX_RING_SLOTS: usize = 4096;

/// What stands for any number of messages.
pub(crate) const NO_LIMIT: u64 = u64::MAX;

/// The most slots that one producer has at a time: consumers wait for the first as long as it takes to claim them all.
pub(crate) const MOST_CLAIMED: usize = 16;

/// After so many steps without an end the memory holds something that no chain ever wrote. Each step is one that others
/// made necessary, or got done.
const MOST_STEPS: u32 = 1 << 16;
/// So many messages one consumer takes before it pushes `head`: others would have to, one by one.
const MOST_UNTOLD: u64 = 1 << 10;
/// So many rings, of 512 KiB each, no machine has.
const MOST_RINGS: u32 = 1 << 20;

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

    /// Whether a consumer has claimed the position, or nobody ever will.
    fn is_passed(&self) -> bool {
        match (self.seen >> TURN_SHIFT).cmp(&self.spot.turn) {
            Compare::Greater => true,
            Compare::Equal => self.seen & STATE == READING,
            Compare::Less => false,
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

#[cfg(not(loom))]
impl Place<'_> {
    /// The position behind the message that was taken last.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}

/// Looks at the slot of the position that `hint` holds.
///
/// The ring may be given back at any time and live again. If it is still the one that `ring_name` names after all
/// has been read, then it was that all along: position, slot and word belong together. None if no ring has the name.
#[inline(always)]
fn look<'r>(rings: &'r impl Rings, ring_name: &AtomicU64, hint: &AtomicU64) -> Option<Look<'r>> {
    for _ in 0..MOST_STEPS {
        // SYNC POINT: Acquire sees the ring initialized.
        let name = ring_name.load(essential!(RingSeen: Ordering::Acquire));
        let ring = rings.ring(RingRef(name))?;
        // SYNC POINT: Acquire; whoever pushed the hint there knew the ring that the position is in.
        let position = hint.load(essential!(HintSeen: Ordering::Acquire));
        let spot = ring.life().spot(position);
        // SYNC POINT: Acquire; what the slot's last owner did is done.
        let seen = spot.slot.word.load(essential!(WordSeen: Ordering::Acquire));
        if essential!(SameRing: ring_name.load(Ordering::Relaxed) != name) {
            continue;
        }
        return Some(Look { name, ring, spot, seen });
    }
    None
}

impl Chain {
    /// Gives the chain its first ring. Nobody else knows the chain yet.
    pub fn initialize(&self, rings: &impl Rings, me: PeerId, slots: usize) -> Result<(), OutOfMemory> {
        let reference = rings.allocate(me, slots)?;
        fault!(FirstRingMade);
        if let Some(ring) = rings.ring(reference) {
            ring.initialize(reference, 0);
        }
        self.back.tail_ring.store(reference.0, Ordering::Relaxed);
        self.front.head_ring.store(reference.0, Ordering::Relaxed);
        fault!(FirstRingKnown);
        // The ring is the chain's from here on. It was 0, or somebody wrote over it: then the ring is nobody's.
        if rings.link(me, &self.front.first_ring, 0, reference.0, Some(reference)).is_err() {
            rings.free(me, reference);
        }
        Ok(())
    }

    /// Whether there may be messages: it has its rings, and nobody has begun to give them back.
    pub fn is_alive(&self) -> bool {
        self.front.first_ring.load(Ordering::Acquire) != 0 && self.front.head_ring.load(Ordering::Acquire) != 0
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
        essential!(TailFirst: advance(&self.back.tail, first.position, first.position.wrapping_add(claimed as u64)));
        fault!(TailPushed);
        for place in 0..claimed {
            first.life.spot(first.position.wrapping_add(place as u64)).write(me, cell(place), || on_claim(place));
        }
        Ok(claimed)
    }

    /// Claims the first free slot.
    #[inline(always)]
    fn claim_free<'r>(&self, rings: &'r impl Rings, me: PeerId, limit: u64) -> Result<Spot<'r>, PushError> {
        for _ in 0..MOST_STEPS {
            let look = look(rings, &self.back.tail_ring, &self.back.tail).ok_or(PushError::Corrupt)?;
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
                        fault!(ClaimedToWrite);
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
                    fault!(RingClosed);
                }
                // Somebody claimed the position and did not push `tail` yet.
                Compare::Equal | Compare::Greater => advance(&self.back.tail, position, position.wrapping_add(1)),
            }
        }
        Err(PushError::Corrupt)
    }

    /// Claims the slot `offset` positions behind `first`, if it is free. All before it are ours: so the ring does not end
    /// before it, and stays a ring of this chain.
    #[inline(always)]
    fn claim_next(&self, first: &Spot<'_>, offset: u64, me: PeerId, limit: u64) -> bool {
        let spot = first.life.spot(first.position.wrapping_add(offset));
        let free = word(FREE, spot.turn, 0);
        // SYNC POINT: Acquire; what the last reader of the slot did is done.
        spot.slot.word.load(essential!(NextSeen: Ordering::Acquire)) == free
            && !self.seems_full(spot.position, limit)
            // As in `claim_free`.
            && spot.slot.word.compare_exchange(free, spot.ours(WRITING, me), Ordering::Release, Ordering::Relaxed).is_ok()
            && {
                fault!(ClaimedNextToWrite);
                true
            }
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
        let next = spot.position.wrapping_add(1);
        advance(&self.front.head, spot.position, next);
        fault!(HeadPushed);
        spot.take(me, cell, on_claim);
        Ok(Place { life: spot.life, position: next, told: next })
    }

    /// Takes the next cell, if it is there and its message has not more than `most` bytes; whether it was taken.
    ///
    /// `head` stays behind until [`Chain::leave_place`], or for a while, but for others who find it there. The ring may be another's
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
            place.position = place.position.wrapping_add(1);
            if place.position.wrapping_sub(place.told) >= MOST_UNTOLD {
                advance(&self.front.head, place.told, place.position);
                place.told = place.position;
            }
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
        fault!(Peeked);
        // As it was before.
        // SYNC POINT: Release; our reading comes before that of the consumer, whom the next producer waits for.
        spot.hand_on(me, PEEKING, READY, spot.turn, essential!(PutBack: Ordering::Release));
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
        for _ in 0..MOST_STEPS {
            let look = look(rings, &self.front.head_ring, &self.front.head).ok_or(PopError::Corrupt)?;
            let Look { spot: spot @ Spot { position, turn, .. }, seen, .. } = look;
            match (seen >> TURN_SHIFT).cmp(&turn) {
                Compare::Equal if seen & STATE == READY => {
                    if spot.claim_ready(seen, state, me, most, cell)? {
                        fault!(ClaimedToRead);
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
                // Somebody took the position and did not push `head` yet, or it is a hole.
                Compare::Equal | Compare::Greater => advance(&self.front.head, position, position.wrapping_add(1)),
            }
        }
        Err(PopError::Corrupt)
    }

    /// Whether the oldest message is just being written, or looked at: whoever does that is done soon.
    pub fn is_busy(&self, rings: &impl Rings) -> bool {
        let look = look(rings, &self.front.head_ring, &self.front.head);
        look.is_some_and(|Look { spot: Spot { turn, .. }, seen, .. }| {
            seen >> TURN_SHIFT == turn && matches!(seen & STATE, WRITING | PEEKING)
        })
    }

    /// How many messages there are: written, or being written.
    #[inline]
    pub fn len(&self) -> u64 {
        for _ in 0..MOST_STEPS {
            let tail = self.back.tail.load(Ordering::Acquire);
            let head = self.front.head.load(Ordering::Acquire);
            let holes = self.front.holes.count(head, tail);
            // Any number may have come and gone between the two.
            if self.back.tail.load(Ordering::Relaxed) == tail {
                return tail.saturating_sub(head).saturating_sub(holes);
            }
        }
        0
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

    /// Gives every ring back. The caller is the only one who knows the chain, and has emptied it. The call may be
    /// repeated, by others, too.
    pub fn destroy(&self, rings: &impl Rings, me: PeerId) {
        self.front.head_ring.store(0, Ordering::Release); // nobody looks for messages where there are no rings any more
        for _ in 0..MOST_RINGS {
            let reference = RingRef(self.front.first_ring.load(Ordering::Acquire));
            let Some(ring) = rings.ring(reference).filter(|_| reference.0 != 0) else { return };
            let next = ring.header.next.load(Ordering::Acquire);
            let is_last = next == reference.nothing_follows() || next == reference.nothing_will_follow();
            fault!(RingToFree);
            if !rings.unlink(me, &self.front.first_ring, reference, if is_last { 0 } else { next }) {
                return;
            }
        }
    }

    /// Puts right what `dead` has left behind. The call may be repeated, by others, too, but is never made twice at a
    /// time for the same participant.
    pub fn recover(&self, rings: &impl Rings, dead: PeerId, recovery: &mut impl Recovery) {
        let mut steps = 0;
        // The rings from the first one on are this chain's as long as that one is the first. A ring in which `dead` has a
        // slot stays one of them, and `dead` claims no more: so any such slot in a ring that was ours is ours.
        'again: while steps < MOST_RINGS {
            let first = self.front.first_ring.load(Ordering::Acquire);
            let (mut name, mut base) = (first, None);
            while steps < MOST_RINGS {
                steps += 1;
                let reference = RingRef(name);
                let Some(ring) = rings.ring(reference).filter(|_| name != 0) else { break 'again };
                let (life, next) = (ring.life(), ring.header.next.load(Ordering::Acquire));
                if essential!(SameFirst: self.front.first_ring.load(Ordering::Acquire) != first) {
                    continue 'again;
                }
                if base.is_some_and(|base| life.base <= base) {
                    break 'again; // rings that lead back to themselves: somebody wrote over them
                }
                self.recover_ring(life, dead, recovery);
                if next == reference.nothing_follows() || next == reference.nothing_will_follow() {
                    break 'again;
                }
                (name, base) = (next, Some(life.base));
            }
        }
        self.pass(rings);
    }

    /// The same for the slots of one ring.
    fn recover_ring(&self, life: Life<'_>, dead: PeerId, recovery: &mut impl Recovery) {
        for (place, slot) in life.slots.iter().enumerate() {
            let seen = slot.word.load(Ordering::Acquire);
            if seen & PEER != u64::from(dead.get()) << PEER_SHIFT {
                continue;
            }
            let (turn, state) = (seen >> TURN_SHIFT, seen & STATE);
            let spot = Spot { life, position: life.position(place, turn), slot, turn };
            let tail = self.back.tail.load(Ordering::Acquire);
            let most = if state == WRITING { MOST_CLAIMED as u64 } else { 0 };
            if spot.position >= tail.saturating_add(most) {
                continue; // nobody claims so far behind: somebody wrote over it
            }
            let next = spot.position + 1;
            let mut cell = Cell { meta: slot.meta.load(Ordering::Acquire), ..Cell::default() };
            let is_complete = cell.meta & Meta::COMPLETE != 0;
            if is_complete {
                spot.read(&mut cell);
            }
            match (state, is_complete) {
                (WRITING, true) => {
                    recovery.complete(&cell);
                    fault!(RolledForward);
                    spot.hand_on(dead, WRITING, READY, turn, essential!(RecoveredCommit: Ordering::Release));
                }
                (WRITING, false) => {
                    // The turn stands for: this hole is counted. No later turn of the slot is taken for it.
                    if cell.meta != turn {
                        recovery.skip(|set| {
                            self.front.holes.add(spot.position, self.front.head.load(Ordering::Acquire), set);
                            set(&slot.meta, turn);
                        });
                        fault!(HoleCounted);
                    }
                    // As in `push_some`: `head` is never beyond `tail`.
                    essential!(HoleBehindTail: advance(&self.back.tail, spot.position, next));
                    fault!(TailPastHole);
                    spot.hand_on(dead, WRITING, FREE, turn + 1, essential!(RecoveredSlot: Ordering::Release));
                }
                (READING, _) => {
                    if is_complete && !recovery.put_back(&cell, spot.position, &slot.meta) {
                        continue;
                    }
                    fault!(GivenBack);
                    advance(&self.front.head, spot.position, next);
                    spot.hand_on(dead, READING, FREE, turn + 1, essential!(RecoveredSlot: Ordering::Release));
                }
                (PEEKING, _) => {
                    spot.hand_on(dead, PEEKING, READY, turn, essential!(RecoveredSlot: Ordering::Release));
                }
                _ => {} // somebody wrote over it
            }
            fault!(SlotRecovered);
        }
    }

    /// Pushes `head` past all that was claimed, or that nobody gets.
    fn pass(&self, rings: &impl Rings) {
        for _ in 0..MOST_STEPS {
            match look(rings, &self.front.head_ring, &self.front.head) {
                Some(look) if look.is_passed() => {
                    advance(&self.front.head, look.spot.position, look.spot.position.wrapping_add(1));
                }
                _ => return,
            }
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
        for _ in 0..MOST_STEPS {
            // Before the look: what was put later may have found room that the look does not show.
            let tail = self.back.tail.load(Ordering::Acquire);
            let Some(look) = look(rings, &self.front.head_ring, &self.front.head) else { return true };
            let head = look.spot.position;
            if tail.saturating_sub(head).saturating_sub(self.front.holes.count(head, tail)) < limit {
                return false;
            }
            if !look.is_passed() {
                return true;
            }
            advance(&self.front.head, head, head.wrapping_add(1));
        }
        true
    }

    /// Lets nothing in any more. What was pushed before can be popped; then [`PopError::Ended`] says that it is all.
    #[cold]
    pub fn seal(&self, rings: &impl Rings, me: PeerId) {
        for _ in 0..MOST_STEPS {
            let Some(look) = look(rings, &self.back.tail_ring, &self.back.tail) else { return };
            let Look { spot: Spot { position, slot, turn, .. }, seen, .. } = look;
            if look.is_end() {
                let reference = RingRef(look.name);
                let (nothing, never) = (reference.nothing_follows(), reference.nothing_will_follow());
                fault!(SealClosed);
                match rings.link(me, &look.ring.header.next, nothing, never, None) {
                    Ok(()) => return,
                    Err(next) if next == never => return,
                    Err(next) => self.move_on(&look, next),
                }
            } else if seen >> TURN_SHIFT < turn || seen == word(FREE, turn, 0) {
                // The close, as in `push`, and of a slot that nobody has claimed yet.
                let _ = slot.word.compare_exchange(seen, seen | CLOSED, Ordering::Relaxed, Ordering::Relaxed);
            } else {
                advance(&self.back.tail, position, position.wrapping_add(1));
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
            let slots = (2 * ring.slots.len()).min(MAX_RING_SLOTS);
            let fresh = rings.allocate(me, slots).map_err(PushError::OutOfMemory)?;
            rings.ring(fresh).ok_or(PushError::Corrupt)?.initialize(fresh, position);
            fault!(RingMade);
            match rings.link(me, &ring.header.next, nothing, fresh.0, Some(fresh)) {
                Ok(()) => next = fresh.0,
                Err(linked) => {
                    rings.free(me, fresh);
                    next = linked;
                }
            }
            fault!(RingLinked);
        }
        if next == RingRef(name).nothing_will_follow() {
            return Err(PushError::Sealed);
        }
        self.move_on(look, next);
        fault!(TailMovedOn);
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
        fault!(HeadMovedOn);
        self.give_back(rings, me);
        Ok(())
    }

    /// Gives back the rings that both ends have left, as far as nobody reads in them any more.
    #[cold]
    fn give_back(&self, rings: &impl Rings, me: PeerId) {
        for _ in 0..MOST_RINGS {
            let first = self.front.first_ring.load(Ordering::Acquire);
            if first == self.front.head_ring.load(Ordering::Acquire)
                || essential!(ProducersLeft: first == self.back.tail_ring.load(Ordering::Acquire))
            {
                return;
            }
            let Some(ring) = rings.ring(RingRef(first)) else { return };
            let next = ring.header.next.load(Ordering::Acquire);
            if essential!(ReadersLeft: !ring.is_quiet()) {
                return; // its last reader is not done; the next one who leaves a ring comes back to it
            }
            fault!(RingToGiveBack);
            // One of us frees it. A ring that was freed and lives again has another generation.
            rings.unlink(me, &self.front.first_ring, RingRef(first), next);
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
