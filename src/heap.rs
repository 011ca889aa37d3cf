//! Blocks of any size in a region's memory, each with a name of its owner.
//!
//! A slab is an array of blocks of one size with an array of descriptors before it. Taking a block is one
//! compare-and-swap of its descriptor from FREE to OWNED with the taker's name in it; there are no free lists, so
//! nothing is ever on its way between a list and an owner, and a thread that stops anywhere holds nobody up.
//! Where to look first is a hint (the block that was freed last, whose bytes are warm, then the place behind the
//! one that was taken last). Sizes are powers of two and the steps halfway between.
//!
//! Memory goes back to the kernel page by page (`MADV_REMOVE`): a large block when it is freed and enough large ones
//! are free already, small ones when a queue that had grown gives a ring back. Addresses stay.
//!
//! What several steps would take that a kill may come between is a transaction ([`journal`](crate::journal)): references
//! to objects, each of which has its place with its holder's name; rings that are linked; slabs that are added.
//!
//! `unsafe` here: the structures of `layout.rs` are laid over raw memory. What makes it sound is kept in private
//! memory: a slab's address, its block size and its count, which are read from the region once and checked. An index
//! from outside is checked against them before any address is made of it. Blocks that were rings are only ever rings
//! again, so a `&Slot` is a `&Slot` for ever; all that other threads may change under a shared reference is atomic.
#![expect(unsafe_code, reason = "structures are laid over raw memory")]

use core::ptr::NonNull;

use std::collections::HashMap;

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::error::{AttachError, OutOfMemory};
use crate::fault::fault;
use crate::journal::Transaction;
use crate::layout::{
    CLASSES, Class, MAX_SLABS, ObjectHeader, ObjectId, ObjectKind, PeerId, RingHeader, SlabEntry, Slot,
};
use crate::region::{Cut, Space, Span, page_bytes};
use crate::ring::{MAX_RING_SLOTS, Ring, RingRef, Rings};
use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

const STATE: u64 = 3;
const FREE: u64 = 0;
const OWNED: u64 = 1;
const QUEUED: u64 = 2;
const OBJECT: u64 = 3;
/// The block's pages were written since the kernel last took them back.
const DIRTY: u64 = 4;
/// An envelope whose message its owner got and did not acknowledge.
const TAKEN: u64 = 8;
const PEER_SHIFT: u32 = 4;
const PEER: u64 = 0xFFF << PEER_SHIFT;
/// Of an object, and of a block whose last words are ids of objects: each a reference.
const REFERENCE: u64 = 1 << 16;
const REFERENCES: u64 = 0xFF_FFFF << 16;
const GENERATION_SHIFT: u32 = 40;

/// A block's index is its slab's number and its place in it.
const PLACE_BITS: u32 = 18;
const MAX_PLACES: usize = 1 << PLACE_BITS;

/// The smallest block: two cache lines.
const MIN_BLOCK_BYTES: usize = 128;
/// Bytes of a block of a participant's references: of so many words.
const LEDGER_BYTES: usize = 1024;
/// Bytes of a class's first slab; each later one is twice as large, up to [`MAX_PLACES`] blocks.
const FIRST_SLAB_BYTES: usize = 64 << 10;
/// Blocks of at least this size go back to the kernel one by one.
const LARGE_BYTES: usize = 64 << 10;
/// Bytes of large free blocks that stay with the region, warm and ready: taking a page from the kernel again costs more
/// than a copy to it, so a queue that runs full and empty by turns should find what it gave back.
const RETAINED_BYTES: usize = 64 << 20;
/// The same of rings: a queue that grew long once rarely does so all the time.
const RETAINED_RING_BYTES: usize = 8 << 20;
/// Bytes of small free blocks of one size that stay.
const RETAINED_SMALL_BYTES: usize = 4 << 20;
/// Bytes of a class's largest slab, if a block is smaller.
const MAX_SLAB_BYTES: usize = 16 << 20;
/// So many slabs somebody adds for one block. Others may take all that was added, but not each time: somebody wrote over it.
const MOST_GROWTH: u32 = 64;
/// How many descriptors a search looks at in each slab before it gives up on it.
const SEARCH: usize = 256;
/// Pages are given back in pieces of at least this size, when all blocks in a piece are free.
const PIECE_BYTES: usize = 64 << 10;

/// What a block's memory may be used for, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Payloads and objects.
    Data,
    /// Rings.
    Ring,
}

impl Family {
    /// Bytes of its large free blocks that stay.
    const fn retained_bytes(self) -> usize {
        match self {
            Family::Data => RETAINED_BYTES,
            Family::Ring => RETAINED_RING_BYTES,
        }
    }
}

/// Private knowledge about a slab.
#[derive(Debug)]
struct Slab {
    descriptors: NonNull<AtomicU64>,
    headers: NonNull<RingHeader>,
    blocks: NonNull<u8>,
    count: usize,
    block_bytes: usize,
    class: usize,
    family: Family,
    /// Where the blocks are in the file.
    offset: u64,
    /// The slab of the same class that was made before it, plus one.
    older: u64,
    /// Where the next search starts.
    cursor: AtomicUsize,
}

// SAFETY: the pointers lead into memory that stays mapped as long as the heap lives, and what is behind them is
// atomic, or raw bytes that only a block's owner touches.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    fn descriptor(&self, place: usize) -> Option<&AtomicU64> {
        // SAFETY: `place` is inside the slab, whose descriptors are zeroed memory mapped for the heap's life.
        (place < self.count).then(|| unsafe { self.descriptors.add(place).as_ref() })
    }

    /// Where a block is in the file.
    fn block_offset(&self, place: usize) -> u64 {
        self.offset + (place * self.block_bytes) as u64
    }

    fn block(&self, place: usize) -> NonNull<u8> {
        assert!(place < self.count);
        // SAFETY: the block is inside the slab.
        unsafe { self.blocks.add(place * self.block_bytes) }
    }
}

/// A block that was just taken.
#[derive(Clone, Copy, Debug)]
struct Claimed {
    index: u32,
    generation: u32,
    /// Nobody has written to it since the kernel gave its pages.
    is_zero: bool,
}

/// A heap over a region's memory.
#[derive(Debug)]
pub(crate) struct Heap {
    space: Space,
    /// What is known of the slabs, by their numbers. Null, or made by `Box::into_raw` and there as long as this.
    slabs: Box<[AtomicPtr<Slab>]>,
    /// The references of the participants of this process.
    ledgers: Mutex<HashMap<u16, Ledger>>,
    /// Where the next look for pages to give back starts.
    trim_cursor: AtomicUsize,
}

/// Where a participant notes its references: blocks of words, each an object's id or 0. Recovery finds them there.
#[derive(Debug, Default)]
struct Ledger {
    /// How many places of each block are taken.
    blocks: HashMap<u32, usize>,
    /// How many blocks have none that is.
    empty: usize,
    free: Vec<Note>,
}

/// A place in a ledger: a block's index, and which of its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    block: u32,
    word: u32,
}

/// What the heap holds, in bytes and blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Address space of the region.
    pub reserved: u64,
    /// Bytes of taken blocks, rings and objects included.
    pub in_use: u64,
    /// Bytes of free blocks that the region keeps warm.
    pub retained: u64,
    /// Taken blocks.
    pub blocks: u64,
}

impl Heap {
    pub(crate) fn new(space: Space) -> Heap {
        Heap {
            space,
            slabs: (0..MAX_SLABS).map(|_| AtomicPtr::default()).collect(),
            ledgers: Mutex::default(),
            trim_cursor: AtomicUsize::new(0),
        }
    }

    pub(crate) fn space(&self) -> &Space {
        &self.space
    }

    /// Changes words of the region all together or not at all; see [`journal`](crate::journal).
    pub(crate) fn transact<T>(
        &self,
        me: PeerId,
        body: impl FnOnce(&mut Transaction<'_, Space>) -> Option<T>,
    ) -> Option<T> {
        self.space.transact(me, body)
    }

    /// Takes a block of at least `bytes` bytes for `owner`.
    pub(crate) fn take(&self, owner: PeerId, bytes: usize) -> Result<u32, OutOfMemory> {
        Ok(self.claim(Family::Data, bytes, owner)?.index)
    }

    /// Hands a block that its producer owns to the queue, or one that the queue owns to its consumer.
    pub(crate) fn hand_over(&self, index: u32, to: Option<PeerId>) {
        let Some((_, descriptor)) = self.find(index) else { return };
        let seen = descriptor.load(Ordering::Relaxed);
        if matches!(seen & STATE, OWNED | QUEUED) {
            // Release: a kill after it comes after all that was done to the block.
            descriptor.store(owned_by(seen, to), Ordering::Release);
        }
    }

    /// Whether the block belongs to a queue, or to that peer.
    pub(crate) fn belongs_to(&self, index: u32, owner: Option<PeerId>) -> bool {
        self.find(index).is_some_and(|(_, descriptor)| {
            let seen = descriptor.load(Ordering::Relaxed);
            owned_by(seen, owner) == seen
        })
    }

    /// The address and size of a block, if the index leads to one.
    pub(crate) fn memory(&self, index: u32) -> Option<(NonNull<u8>, usize)> {
        let slab = self.slab(index)?;
        let place = place(index);
        (place < slab.count && slab.family == Family::Data).then(|| (slab.block(place), slab.block_bytes))
    }

    /// Gives a block back that holds no references.
    pub(crate) fn give_back(&self, me: PeerId, index: u32) {
        let Some((slab, descriptor)) = self.find(index) else { return };
        let class = self.class(slab);
        let seen = descriptor.load(Ordering::Relaxed);
        if seen & STATE == FREE || seen & REFERENCES != 0 {
            return; // only if somebody wrote over what named it
        }
        let mut free = seen & (!0 << GENERATION_SHIFT) | DIRTY;
        if slab.block_bytes >= LARGE_BYTES {
            let bytes = slab.block_bytes as u64;
            let idle = self.idle_large(slab.family).fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
            if idle > slab.family.retained_bytes() as u64 && !self.evict(me, slab.family, class) {
                self.discard_block(slab, place(index));
                free &= !DIRTY;
            }
        }
        fault!(BeforeFree);
        // SYNC POINT: Release, so that the next owner's bytes come after our last look.
        descriptor.store(free, Ordering::Release);
        class.hint.store(u64::from(index) + 1, Ordering::Relaxed);
        count_down(&class.taken, 1);
    }

    /// Gives the pages of a large free block back that is not of the class `used`, which is in use just now; false if
    /// there is none. Otherwise the blocks of a size that nobody uses any more would stay for ever, and those in use go.
    #[cold]
    fn evict(&self, me: PeerId, family: Family, used: &Class) -> bool {
        for (number, class) in self.classes(family).iter().enumerate() {
            let idle = class.dirty.load(Ordering::Relaxed) > class.taken.load(Ordering::Relaxed);
            if class_bytes(number) < LARGE_BYTES || !idle || core::ptr::eq(&raw const **class, used) {
                continue;
            }
            for (slab, place) in self.places(family, number, class) {
                let Some(descriptor) = slab.descriptor(place) else { continue };
                if let Some(seen) = hold(descriptor, me, DIRTY) {
                    self.discard_block(slab, place);
                    descriptor.store(seen & !DIRTY, Ordering::Release);
                    return true;
                }
            }
        }
        false
    }

    /// Every place of a class.
    fn places<'a>(&'a self, family: Family, number: usize, class: &Class) -> impl Iterator<Item = (&'a Slab, usize)> {
        self.slabs(family, number, class.newest.load(Ordering::Acquire))
            .flat_map(|(_, slab)| (0..slab.count).map(move |place| (slab, place)))
    }

    /// The slabs of a class with their numbers, from the one of that name on: those that are of that class.
    fn slabs(&self, family: Family, number: usize, newest: u64) -> impl Iterator<Item = (u32, &Slab)> {
        let named = move |name: u64| {
            let slab = self.named_slab(name)?;
            // Another one only if somebody wrote over the links. Its blocks are of another size.
            (slab.family == family && slab.class == number).then_some((name as u32 - 1, slab))
        };
        core::iter::successors(named(newest), move |(_, slab)| named(slab.older))
    }

    /// Gives a large block's pages back to the kernel. The block is the caller's.
    fn discard_block(&self, slab: &Slab, place: usize) {
        // SAFETY: the caller owns the block.
        unsafe { self.space.discard(Span { start: slab.block(place), length: slab.block_bytes }) };
        count_down(self.idle_large(slab.family), slab.block_bytes as u64);
        count_down(&self.class(slab).dirty, 1);
    }

    // --- objects and references ------------------------------------------------------------------------------------

    /// Makes an object of `bytes` bytes, all zero but for its kind, with one reference, noted for `me`.
    pub(crate) fn create_object(
        &self,
        me: PeerId,
        kind: ObjectKind,
        bytes: usize,
    ) -> Result<(ObjectId, Note), OutOfMemory> {
        let id = self.take_for_object(me, kind, bytes)?;
        let note = self.note(me).inspect_err(|_| self.give_back(me, id.index))?;
        // Nobody else knows of them, unless somebody wrote over the ledger.
        if self.noted(note).is_some_and(|noted| self.make_object(me, id, kind, noted, 0, id.pack())) {
            return Ok((id, note));
        }
        self.forget_note(me, note);
        self.give_back(me, id.index);
        Err(OutOfMemory { requested: bytes as u64, available: 0 })
    }

    /// Takes a block for an object, all zero but for its kind. It is the caller's until [`Heap::make_object`].
    pub(crate) fn take_for_object(&self, me: PeerId, kind: ObjectKind, bytes: usize) -> Result<ObjectId, OutOfMemory> {
        let refused = |error: OutOfMemory| OutOfMemory { requested: bytes as u64, ..error };
        // Blocks for a multiple of the smallest one are such multiples themselves, and so aligned to it in their slab.
        let room = bytes.checked_next_multiple_of(MIN_BLOCK_BYTES).unwrap_or(usize::MAX);
        let Claimed { index, generation, is_zero } = self.claim(Family::Data, room, me).map_err(refused)?;
        let Some((memory, _)) = self.memory(index) else {
            return Err(OutOfMemory { requested: bytes as u64, available: 0 });
        };
        if !is_zero {
            // SAFETY: the block is ours alone until its id is known, and it is that large.
            unsafe { memory.write_bytes(0, bytes) };
        }
        // SAFETY: every object starts with a header, which is zero now; blocks are aligned to 128 bytes.
        unsafe { memory.cast::<ObjectHeader>().as_ref() }.kind.store(kind as u32, Ordering::Release);
        Ok(ObjectId { index, generation })
    }

    /// Makes such a block an object with one reference, which is in the word: it becomes `named`, unless it is not
    /// `expected`; whether it did.
    pub(crate) fn make_object(
        &self,
        me: PeerId,
        id: ObjectId,
        kind: ObjectKind,
        word: &AtomicU64,
        expected: u64,
        named: u64,
    ) -> bool {
        let made = self.transact(me, |transaction| {
            let (_, descriptor) = self.find(id.index)?;
            if word.load(Ordering::Acquire) != expected {
                return None;
            }
            transaction.set(word, named);
            transaction.set(descriptor, u64::from(id.generation) << GENERATION_SHIFT | DIRTY | OBJECT | REFERENCE);
            let count = self.counted(kind);
            transaction.set(count, count.load(Ordering::Relaxed).wrapping_add(1));
            Some(())
        });
        made.is_some()
    }

    /// Adds a reference to an object, if it still is what the id names, noted for `me`.
    pub(crate) fn acquire_object(&self, me: PeerId, id: ObjectId, kind: ObjectKind) -> Result<Note, AttachError> {
        let note = self.note(me)?;
        let acquired = self.transact(me, |transaction| {
            self.add_reference(transaction, id, kind).ok()?;
            transaction.set(self.noted(note)?, id.pack());
            Some(())
        });
        if acquired.is_none() {
            self.forget_note(me, note);
        }
        acquired.map(|()| note).ok_or_else(|| self.referable(id, kind).err().unwrap_or(AttachError::Gone))
    }

    /// Collects the change that adds a reference.
    pub(crate) fn add_reference(
        &self,
        transaction: &mut Transaction<'_, Space>,
        id: ObjectId,
        kind: ObjectKind,
    ) -> Result<(), AttachError> {
        let descriptor = self.referable(id, kind)?;
        transaction.set(descriptor, descriptor.load(Ordering::Relaxed).wrapping_add(REFERENCE));
        Ok(())
    }

    /// The descriptor of an object that a reference may be added to. It stays as it is while the journal's lock is held.
    fn referable(&self, id: ObjectId, kind: ObjectKind) -> Result<&AtomicU64, AttachError> {
        let (_, descriptor) = self.find(id.index).ok_or(AttachError::Corrupt)?;
        let seen = descriptor.load(Ordering::Acquire);
        if seen & STATE != OBJECT || seen & REFERENCES == 0 || (seen >> GENERATION_SHIFT) as u32 != id.generation {
            return Err(AttachError::Gone);
        }
        // 16,777,215 references: no program has as many
        let is_full = seen & REFERENCES == REFERENCES;
        if is_full || self.object_kind(id) != Some(kind) { Err(AttachError::Corrupt) } else { Ok(descriptor) }
    }

    /// Takes the reference back that is noted there; true if it was the last, and then the caller alone owns the object
    /// and ends it.
    pub(crate) fn release_object(&self, me: PeerId, note: Note) -> bool {
        let last = self.transact(me, |transaction| {
            let word = self.noted(note)?;
            let id = ObjectId::unpack(word.load(Ordering::Relaxed))?;
            transaction.set(word, 0);
            Some(self.drop_reference(transaction, id, me))
        });
        self.forget_note(me, note);
        last == Some(true)
    }

    /// Collects the change that takes a reference back; whether it was the last.
    pub(crate) fn drop_reference(&self, transaction: &mut Transaction<'_, Space>, id: ObjectId, me: PeerId) -> bool {
        let Some((_, descriptor)) = self.find(id.index) else { return false };
        let seen = descriptor.load(Ordering::Acquire);
        let is_it = seen & STATE == OBJECT && (seen >> GENERATION_SHIFT) as u32 == id.generation;
        if !is_it || seen & REFERENCES == 0 {
            return false; // only if somebody wrote over the note
        }
        let last = seen & REFERENCES == REFERENCE;
        // An object without references names who ends it.
        let ending = if last { name_of(me) } else { 0 };
        transaction.set(descriptor, (seen - REFERENCE) & !PEER | ending);
        last
    }

    /// The end of an object that has no reference, or none but its owner's, which ends: its block is free.
    pub(crate) fn end_object(&self, me: PeerId, id: ObjectId, kind: Option<ObjectKind>) {
        let ended = self.transact(me, |transaction| {
            let (_, descriptor) = self.find(id.index)?;
            let seen = descriptor.load(Ordering::Relaxed);
            let is_it = seen & STATE == OBJECT && (seen >> GENERATION_SHIFT) as u32 == id.generation;
            if !is_it || seen & REFERENCES > REFERENCE {
                return None; // only if somebody wrote over it
            }
            transaction.set(descriptor, owned_by(seen & !REFERENCES, Some(me)));
            if let Some(count) = kind.map(|kind| self.counted(kind)) {
                transaction.set(count, count.load(Ordering::Relaxed).wrapping_sub(1));
            }
            Some(())
        });
        if ended.is_some() {
            self.give_back(me, id.index);
        }
    }

    /// [`Heap::hand_over`] as a part of a transaction.
    pub(crate) fn hand_over_with(
        &self,
        transaction: &mut Transaction<'_, Space>,
        index: u32,
        to: Option<PeerId>,
    ) -> Option<()> {
        let (_, descriptor) = self.find(index)?;
        transaction.set(descriptor, owned_by(descriptor.load(Ordering::Relaxed), to));
        Some(())
    }

    /// The same for an envelope whose message is not acknowledged yet: [`Heap::sweep`] finds it.
    pub(crate) fn take_in_hand_with(
        &self,
        transaction: &mut Transaction<'_, Space>,
        index: u32,
        by: PeerId,
    ) -> Option<()> {
        let (_, descriptor) = self.find(index)?;
        transaction.set(descriptor, owned_by(descriptor.load(Ordering::Relaxed), Some(by)) | TAKEN);
        Some(())
    }

    /// The same, outside of a transaction: for the consumer of the slot that names the envelope.
    pub(crate) fn take_in_hand(&self, index: u32, by: PeerId) {
        let Some((_, descriptor)) = self.find(index) else { return };
        descriptor.store(owned_by(descriptor.load(Ordering::Relaxed), Some(by)) | TAKEN, Ordering::Release);
    }

    /// Whether the block belongs to a structure.
    pub(crate) fn is_queued(&self, index: u32) -> bool {
        self.find(index).is_some_and(|(_, descriptor)| descriptor.load(Ordering::Acquire) & STATE == QUEUED)
    }

    /// Whether the block is an envelope that somebody has in hand.
    pub(crate) fn is_in_hand(&self, index: u32, by: PeerId) -> bool {
        let mine = OWNED | TAKEN | name_of(by);
        self.find(index).is_some_and(|(_, seen)| seen.load(Ordering::Acquire) & (STATE | PEER | TAKEN) == mine)
    }

    /// Whether the id is an object's that somebody refers to.
    pub(crate) fn is_alive(&self, id: ObjectId) -> bool {
        self.object_kind(id).is_some_and(|kind| self.referable(id, kind).is_ok())
    }

    /// Whether the id is an object's that exists.
    pub(crate) fn is_object(&self, id: ObjectId) -> bool {
        self.find(id.index).is_some_and(|(_, descriptor)| {
            let seen = descriptor.load(Ordering::Acquire);
            seen & STATE == OBJECT && (seen >> GENERATION_SHIFT) as u32 == id.generation
        })
    }

    /// Has a block hold references to these objects, which are alive, in its last words.
    pub(crate) fn pin(&self, me: PeerId, index: u32, objects: &[(ObjectId, ObjectKind)]) {
        for (id, kind) in objects {
            self.transact(me, |transaction| {
                let (_, descriptor) = self.find(index)?;
                let seen = descriptor.load(Ordering::Relaxed);
                let word = self.pinned_word(index, pins(seen))?;
                // A name that leads nowhere stays one, so that the places of the others do not change.
                let added = self.add_reference(transaction, *id, *kind).is_ok();
                transaction.set(word, if added { id.pack() } else { 0 });
                transaction.set(descriptor, seen.wrapping_add(REFERENCE));
                Some(())
            });
        }
    }

    /// The objects that a block refers to.
    pub(crate) fn pinned(&self, index: u32) -> impl Iterator<Item = ObjectId> {
        let count = self
            .find(index)
            .map_or(0, |(slab, descriptor)| pins(descriptor.load(Ordering::Relaxed)).min(most_pins(slab)));
        let id = move |pin| ObjectId::unpack(self.pinned_word(index, pin)?.load(Ordering::Relaxed));
        (0..count).filter_map(id)
    }

    /// Whether a block holds references, for its owner: nobody else changes that while it lives.
    pub(crate) fn is_pinning(&self, index: u32) -> bool {
        self.find(index).is_some_and(|(_, descriptor)| pins(descriptor.load(Ordering::Relaxed)) > 0)
    }

    /// Takes the references back that a block holds; `last` is told of the objects that end with that.
    pub(crate) fn unpin(&self, me: PeerId, index: u32, mut last: impl FnMut(ObjectId)) {
        for _ in 0..=u16::MAX {
            let released = self.transact(me, |transaction| {
                let (slab, descriptor) = self.find(index)?;
                let seen = descriptor.load(Ordering::Relaxed);
                if !matches!(seen & STATE, OWNED | QUEUED) {
                    return None;
                }
                // More than there can be are those of somebody who wrote over them.
                let pin = pins(seen).min(most_pins(slab)).checked_sub(1)?;
                transaction.set(descriptor, seen & !REFERENCES | (pin as u64 * REFERENCE));
                let id = self.pinned_word(index, pin).and_then(|word| {
                    transaction.set(word, 0);
                    ObjectId::unpack(word.load(Ordering::Relaxed))
                });
                Some(id.filter(|id| self.drop_reference(transaction, *id, me)))
            });
            match released {
                None => return,
                Some(ended) => ended.into_iter().for_each(&mut last),
            }
        }
    }

    /// A block's word for its pin of that number: they are counted from its end.
    fn pinned_word(&self, index: u32, pin: usize) -> Option<&AtomicU64> {
        let words = self.memory(index)?.1 / size_of::<AtomicU64>();
        self.word(index, words.checked_sub(pin + 1)?)
    }

    /// A word of a block.
    fn word(&self, index: u32, word: usize) -> Option<&AtomicU64> {
        let (memory, bytes) = self.memory(index)?;
        // SAFETY: it is inside the block, and aligned. Only those use it as an atomic who own it as words.
        (word < bytes / size_of::<AtomicU64>()).then(|| unsafe { memory.cast::<AtomicU64>().add(word).as_ref() })
    }

    fn noted(&self, note: Note) -> Option<&AtomicU64> {
        self.word(note.block, note.word as usize)
    }

    /// A free place in a participant's ledger. It holds 0.
    fn note(&self, me: PeerId) -> Result<Note, OutOfMemory> {
        let mut ledgers = self.ledgers.lock();
        let ledger = ledgers.entry(me.get()).or_default();
        if ledger.free.is_empty() {
            let block = self.take(me, LEDGER_BYTES)?;
            let words = LEDGER_BYTES / size_of::<AtomicU64>();
            for word in (0..words).filter_map(|word| self.word(block, word)) {
                word.store(0, Ordering::Release);
            }
            // From here on, recovery takes its words for ids.
            if let Some((_, descriptor)) = self.find(block) {
                descriptor.fetch_add(words as u64 * REFERENCE, Ordering::Release);
            }
            ledger.blocks.insert(block, 0);
            ledger.empty += 1;
            ledger.free.extend((0..words as u32).rev().map(|word| Note { block, word }));
        }
        let note = ledger.free.pop().expect("there was one or more were made");
        let taken = ledger.blocks.entry(note.block).or_default();
        ledger.empty -= usize::from(*taken == 0);
        *taken += 1;
        Ok(note)
    }

    fn forget_note(&self, me: PeerId, note: Note) {
        const WORDS: usize = LEDGER_BYTES / size_of::<AtomicU64>();
        let mut ledgers = self.ledgers.lock();
        let Some(ledger) = ledgers.get_mut(&me.get()) else { return };
        ledger.free.push(note);
        let taken = ledger.blocks.entry(note.block).or_default();
        *taken = taken.saturating_sub(1);
        ledger.empty += usize::from(*taken == 0);
        // One stays in reserve, or nearly, so that one reference more or less does not cost a block each time.
        while ledger.empty > 0
            && (ledger.blocks.len() == 1 || ledger.free.len() >= WORDS + WORDS / 2)
            && let Some(empty) = ledger.blocks.iter().find_map(|(block, taken)| (*taken == 0).then_some(*block))
        {
            ledger.empty -= 1;
            ledger.blocks.remove(&empty);
            ledger.free.retain(|free| free.block != empty);
            if let Some((_, descriptor)) = self.find(empty) {
                descriptor.fetch_and(!REFERENCES, Ordering::Release); // its words are no ids any more
            }
            self.give_back(me, empty);
        }
    }

    /// In a forked child, which has only this thread: lets go of what another one had locked, who has stayed with the
    /// parent and may have been changing it. What is noted in shared memory is enough.
    ///
    /// # Safety
    /// As it says.
    pub(crate) unsafe fn take_over(&self) {
        if self.ledgers.is_locked() {
            // SAFETY: nobody else is here.
            unsafe { core::ptr::from_ref(&self.ledgers).cast_mut().write(Mutex::default()) };
        }
    }

    /// Forgets the ledger of a participant that is about to leave. Its references, if it has any left, are found by
    /// [`Heap::sweep`].
    pub(crate) fn close_ledger(&self, me: PeerId) {
        self.ledgers.lock().remove(&me.get());
    }

    /// The state of an object.
    ///
    /// # Safety
    /// The caller holds a reference to the object for as long as it uses the result, and `T` is what the object
    /// was made as: a structure that all zero bytes are valid for and that only changes by atomics.
    pub(crate) unsafe fn object<T>(&self, id: ObjectId) -> Option<NonNull<T>> {
        let (memory, size) = self.memory(id.index)?;
        (size >= size_of::<T>() && memory.cast::<T>().is_aligned()).then(|| memory.cast())
    }

    /// Whether the object has no reference any more, and that peer is to end it.
    pub(crate) fn is_ended_by(&self, id: ObjectId, peer: PeerId) -> bool {
        let ended = u64::from(id.generation) << GENERATION_SHIFT | name_of(peer) | OBJECT;
        self.find(id.index).is_some_and(|(_, descriptor)| descriptor.load(Ordering::Acquire) & !DIRTY == ended)
    }

    /// The objects that exist, as it was a moment ago, those included that somebody is just ending.
    pub(crate) fn objects(&self) -> Vec<ObjectId> {
        let mut found = Vec::new();
        self.each_block(|_, index, seen| {
            if seen & STATE == OBJECT {
                found.push(ObjectId { index, generation: (seen >> GENERATION_SHIFT) as u32 });
            }
        });
        found
    }

    /// Visits every block, with its descriptor as it was a moment ago.
    fn each_block(&self, mut visit: impl FnMut(&Slab, u32, u64)) {
        let count = self.space.header().slab_count.load(Ordering::Acquire).min(MAX_SLABS as u64) as u32;
        for number in 0..count {
            let Some(slab) = self.slab(number << PLACE_BITS) else { continue };
            for place in 0..slab.count {
                let seen = slab.descriptor(place).map_or(FREE, |descriptor| descriptor.load(Ordering::Relaxed));
                visit(slab, number << PLACE_BITS | place as u32, seen);
            }
        }
    }

    /// Frees what the dead owned in its own name: blocks, with the references in them. `ended` is told of the objects
    /// that it was about to end, or that end now: the caller ends them.
    ///
    /// It may be begun again after a kill: each step leaves what is left to the next one who comes.
    pub(crate) fn sweep(&self, dead: PeerId, me: PeerId, mut taken: impl FnMut(u32), mut ended: impl FnMut(ObjectId)) {
        let name = name_of(dead);
        let mut owned = Vec::new();
        self.each_block(|_, index, seen| {
            if seen & PEER == name && matches!(seen & STATE, OWNED | OBJECT) {
                owned.push((index, seen));
            }
        });
        for (index, seen) in owned {
            if seen & STATE == OBJECT {
                let id = ObjectId { index, generation: (seen >> GENERATION_SHIFT) as u32 };
                let taken_over = self.transact(me, |transaction| {
                    let (_, descriptor) = self.find(index)?;
                    let now = descriptor.load(Ordering::Relaxed);
                    transaction.set(descriptor, now & !PEER | name_of(me));
                    (now == seen && now & REFERENCES == 0).then_some(())
                });
                if taken_over.is_some() {
                    ended(id);
                }
            } else if seen & TAKEN != 0 {
                taken(index);
            } else {
                self.unpin(me, index, &mut ended);
                fault!(SweptBlockUnpinned);
                self.give_back(me, index);
            }
        }
    }

    /// Counts again what is only counted about: kills come between a block's change and the count.
    pub(crate) fn count_again(&self) {
        let mut counts = [[[0; 2]; CLASSES]; 2];
        let mut idle_large = [0; 2];
        self.each_block(|slab, _, seen| {
            let family = usize::from(slab.family == Family::Ring);
            let [taken, dirty] = &mut counts[family][slab.class];
            *taken += u64::from(seen & STATE != FREE);
            *dirty += u64::from(seen & DIRTY != 0);
            if slab.block_bytes >= LARGE_BYTES && seen & STATE == FREE && seen & DIRTY != 0 {
                idle_large[family] += slab.block_bytes as u64;
            }
        });
        for (family, classes) in [Family::Data, Family::Ring].into_iter().zip(counts) {
            for (class, [taken, dirty]) in self.classes(family).iter().zip(classes) {
                class.taken.store(taken, Ordering::Relaxed);
                class.dirty.store(dirty, Ordering::Relaxed);
            }
            self.idle_large(family).store(idle_large[usize::from(family == Family::Ring)], Ordering::Relaxed);
        }
    }

    /// The kind of an object that the caller holds a reference to.
    pub(crate) fn object_kind(&self, id: ObjectId) -> Option<ObjectKind> {
        let (memory, _) = self.memory(id.index)?;
        // SAFETY: objects start with a header, and this one stays as long as the caller holds the reference.
        let kind = unsafe { memory.cast::<ObjectHeader>().as_ref() }.kind.load(Ordering::Relaxed);
        ObjectKind::ALL.iter().copied().find(|known| *known as u32 == kind)
    }

    /// How many objects of a kind there are.
    pub(crate) fn counted(&self, kind: ObjectKind) -> &AtomicU64 {
        let place = ObjectKind::ALL.iter().position(|known| *known == kind).expect("ALL has all of them");
        &self.space.header().objects[place]
    }

    /// Claims a block of a class for `me`. Where memory has a limit, what is kept for other sizes goes first.
    fn claim(&self, family: Family, bytes: usize, me: PeerId) -> Result<Claimed, OutOfMemory> {
        let number = class_of(bytes)
            .ok_or_else(|| OutOfMemory { requested: bytes as u64, available: crate::region::available_memory() })?;
        let used = &*self.classes(family)[number];
        loop {
            let claimed = self.claim_with_memory(family, number, me);
            let is_refused = claimed.is_err() && self.space.file().must_commit();
            if !(is_refused && (self.evict(me, Family::Data, used) || self.evict(me, Family::Ring, used))) {
                return claimed;
            }
        }
    }

    fn claim_with_memory(&self, family: Family, number: usize, me: PeerId) -> Result<Claimed, OutOfMemory> {
        let claimed = self.claim_any(family, number, me)?;
        // Each time: DIRTY does not say that the pages are there. Somebody may have been killed before they were taken, or
        // while they were given back.
        if self.space.file().must_commit() && class_bytes(number) >= LARGE_BYTES {
            fault!(BeforeCommit);
            let offset = self.find(claimed.index).map_or(0, |(slab, _)| slab.block_offset(place(claimed.index)));
            if let Err(error) = self.space.commit(offset, class_bytes(number) as u64) {
                self.give_back_without_memory(claimed.index);
                return Err(error);
            }
        }
        Ok(claimed)
    }

    /// Gives a large block back as one that nobody has written to: those with memory are taken before it is.
    #[cold]
    fn give_back_without_memory(&self, index: u32) {
        let Some((slab, descriptor)) = self.find(index) else { return };
        // Counted as one that is free and has pages, until it has none.
        self.idle_large(slab.family).fetch_add(slab.block_bytes as u64, Ordering::Relaxed);
        self.discard_block(slab, place(index));
        let free = descriptor.load(Ordering::Relaxed) & !0 << GENERATION_SHIFT;
        descriptor.store(free, Ordering::Release); // as in `give_back`
        count_down(&self.class(slab).taken, 1);
    }

    fn claim_any(&self, family: Family, number: usize, me: PeerId) -> Result<Claimed, OutOfMemory> {
        let class = &self.classes(family)[number];
        let hint = u32::try_from(class.hint.load(Ordering::Relaxed).wrapping_sub(1)).unwrap_or(u32::MAX);
        if let Some((slab, descriptor)) = self.find(hint)
            && slab.family == family
            && slab.class == number
            && let Some(block) = self.claim_one(slab, hint, descriptor, me)
        {
            return Ok(block);
        }
        if class.dirty.load(Ordering::Relaxed) > class.taken.load(Ordering::Relaxed)
            && let Some(found) = self.search(family, number, DIRTY, me)
        {
            return Ok(found); // one whose pages the kernel need not give again
        }
        let mut added = 0;
        while added < MOST_GROWTH {
            let newest = class.newest.load(Ordering::Acquire);
            if let Some(found) = self.search(family, number, 0, me) {
                return Ok(found);
            }
            added += u32::from(self.grow(family, number, newest, me)?);
        }
        Err(OutOfMemory { requested: class_bytes(number) as u64, available: 0 })
    }

    /// Claims a free block of a class that has the flag `wanted`, if there is one where it looks.
    fn search(&self, family: Family, class: usize, wanted: u64, me: PeerId) -> Option<Claimed> {
        let newest = self.classes(family)[class].newest.load(Ordering::Acquire);
        for (number, slab) in self.slabs(family, class, newest) {
            let start = slab.cursor.load(Ordering::Relaxed);
            for step in 0..slab.count.min(SEARCH) {
                let place = if start + step < slab.count { start + step } else { start + step - slab.count };
                let descriptor = slab.descriptor(place)?;
                let index = number << PLACE_BITS | place as u32;
                if descriptor.load(Ordering::Relaxed) & wanted == wanted
                    && let Some(block) = self.claim_one(slab, index, descriptor, me)
                {
                    slab.cursor.store((place + 1) % slab.count, Ordering::Relaxed);
                    return Some(block);
                }
            }
            slab.cursor.store((start + slab.count.min(SEARCH)) % slab.count, Ordering::Relaxed);
        }
        None
    }

    fn claim_one(&self, slab: &Slab, index: u32, descriptor: &AtomicU64, me: PeerId) -> Option<Claimed> {
        let seen = descriptor.load(Ordering::Relaxed);
        if seen & STATE != FREE {
            return None;
        }
        let generation = ((seen >> GENERATION_SHIFT) as u32 + 1) & 0xFF_FFFF;
        // Counted as written from now on, whether or not its owner gets round to it.
        let mine = u64::from(generation) << GENERATION_SHIFT | DIRTY | OWNED | name_of(me);
        // SYNC POINT: Acquire pairs with the Release in `give_back`.
        descriptor.compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed).ok()?;
        fault!(BlockClaimed);
        let class = self.class(slab);
        class.taken.fetch_add(1, Ordering::Relaxed);
        if seen & DIRTY == 0 {
            class.dirty.fetch_add(1, Ordering::Relaxed);
        } else if slab.block_bytes >= LARGE_BYTES {
            count_down(self.idle_large(slab.family), slab.block_bytes as u64);
        }
        Some(Claimed { index, generation, is_zero: seen & DIRTY == 0 })
    }

    /// Adds a slab to a class, unless somebody did so since `newest` was read; whether it did.
    #[cold]
    fn grow(&self, family: Family, number: usize, newest: u64, me: PeerId) -> Result<bool, OutOfMemory> {
        let (class, header) = (&self.classes(family)[number], self.space.header());
        let block_bytes = class_bytes(number);
        let mut refused = None;
        let added = self.transact(me, |transaction| {
            if class.newest.load(Ordering::Acquire) != newest {
                return None;
            }
            let slabs = header.slab_count.load(Ordering::Relaxed);
            let known = self.slabs(family, number, newest).next();
            let before = known.map_or(0, |(_, slab)| slab.count);
            let count = (2 * before).max(FIRST_SLAB_BYTES / block_bytes).clamp(1, MAX_PLACES);
            let count = count.min((MAX_SLAB_BYTES / block_bytes).max(1));
            let lead = lead_bytes(family, count);
            // The number after the last one is what no slab has: all ones is no block.
            let entry = header.slabs[..MAX_SLABS - 1].get(usize::try_from(slabs).unwrap_or(MAX_SLABS));
            let bytes = lead + count * block_bytes;
            // Small blocks get their memory now; a large one when it is taken.
            let committed = if block_bytes < LARGE_BYTES { bytes } else { lead };
            let cut = match self.space.cut(transaction, bytes, committed) {
                Ok(cut) => cut,
                Err(error) => {
                    refused = Some(error);
                    return None;
                }
            };
            let Some(entry) = entry else {
                refused = Some(OutOfMemory { requested: block_bytes as u64, available: 0 });
                return None;
            };
            transaction.set(&entry.offset, cut.offset);
            transaction
                .set(&entry.shape, u64::from(family == Family::Ring) << 40 | (number as u64) << 32 | count as u64);
            // A link that leads nowhere ends here.
            transaction.set(&entry.links, cut.segment << 32 | known.map_or(0, |_| newest));
            transaction.set(&header.slab_count, slabs + 1);
            transaction.set(&class.newest, slabs + 1);
            Some(())
        });
        refused.map_or(Ok(added.is_some()), Err)
    }

    /// Makes the slab of that number known here, if there is one that can be.
    #[cold]
    fn learn(&self, number: usize) -> Option<&Slab> {
        let header = self.space.header();
        // The last number is nobody's: all ones is no block.
        if number as u64 >= header.slab_count.load(Ordering::Acquire).min(MAX_SLABS as u64 - 1) {
            return None;
        }
        let SlabEntry { offset, shape, links } = header.slabs.get(number)?;
        let (offset, shape, links) =
            (offset.load(Ordering::Relaxed), shape.load(Ordering::Relaxed), links.load(Ordering::Relaxed));
        let (count, class) = (shape as u32 as usize, (shape >> 32 & 0xFF) as usize);
        let family = if shape >> 40 & 1 == 1 { Family::Ring } else { Family::Data };
        let older = links & 0xFFFF_FFFF;
        // Each is older than its successor, so that a walk along them ends.
        if class >= CLASSES || count == 0 || count > MAX_PLACES || older > number as u64 {
            return None;
        }
        let block_bytes = class_bytes(class);
        if family == Family::Ring && (block_bytes > MAX_RING_SLOTS * size_of::<Slot>() || class % 2 == 1) {
            return None; // a ring's slots are a power of two
        }
        let lead = lead_bytes(family, count);
        let bytes = lead.checked_add(count.checked_mul(block_bytes)?)?;
        let Span { start, .. } = self.space.span(Cut { segment: links >> 32, offset }, bytes)?;
        // SAFETY: all three are inside the span, which has `lead` bytes before the blocks.
        let (headers, blocks) = unsafe {
            let after_descriptors = (count * size_of::<AtomicU64>()).next_multiple_of(align_of::<RingHeader>());
            (start.add(after_descriptors).cast(), start.add(lead))
        };
        let slab = Slab {
            descriptors: start.cast(),
            headers,
            blocks,
            count,
            block_bytes,
            class,
            family,
            offset: offset + lead as u64,
            older,
            cursor: AtomicUsize::new(0),
        };
        let fresh = Box::into_raw(Box::new(slab));
        let null = core::ptr::null_mut();
        // Release publishes the slab to the other threads here. Failure: one of them was quicker.
        if self.slabs[number].compare_exchange(null, fresh, Ordering::AcqRel, Ordering::Acquire).is_err() {
            // SAFETY: nobody else has seen it.
            drop(unsafe { Box::from_raw(fresh) });
        }
        self.slab((number as u32) << PLACE_BITS)
    }

    /// Gives pages of small free blocks back to the kernel, where a class keeps more of them than it should.
    ///
    /// Called when a queue that had grown gives a ring back. It goes on from where it found enough the last time: a
    /// queue's blocks become free in the order in which its slabs were made.
    ///
    /// Where memory has to be taken before it is touched, small blocks keep theirs: to take it block by block would
    /// cost a system call each.
    #[cold]
    pub(crate) fn trim(&self, me: PeerId) {
        if self.space.file().must_commit() {
            return;
        }
        let slab_count = self.space.header().slab_count.load(Ordering::Acquire).min(MAX_SLABS as u64) as usize;
        for _ in 0..slab_count {
            let number = self.trim_cursor.fetch_add(1, Ordering::Relaxed) % slab_count;
            let Some(slab) = self.slab((number as u32) << PLACE_BITS) else { continue };
            if slab.block_bytes < LARGE_BYTES && self.idle_bytes(slab) > RETAINED_SMALL_BYTES {
                self.trim_slab(slab, me);
                if self.idle_bytes(slab) <= RETAINED_SMALL_BYTES {
                    return;
                }
            }
        }
    }

    fn idle_bytes(&self, slab: &Slab) -> usize {
        let class = self.class(slab);
        let taken = class.taken.load(Ordering::Relaxed);
        (class.dirty.load(Ordering::Relaxed).saturating_sub(taken) as usize).saturating_mul(slab.block_bytes)
    }

    fn trim_slab(&self, slab: &Slab, me: PeerId) {
        let class = self.class(slab);
        // A piece ends on a page boundary because every block size divides three times the piece's.
        let blocks = (3 * PIECE_BYTES / slab.block_bytes).min(slab.count);
        if blocks * slab.block_bytes < 3 * PIECE_BYTES {
            return; // a class's first slab stays
        }
        for first in (0..=slab.count - blocks).step_by(blocks) {
            if self.idle_bytes(slab) <= RETAINED_SMALL_BYTES {
                return;
            }
            let places = first..first + blocks;
            let mut held = first;
            // Nobody may take a block of the piece while its pages go: take them all, or let go again.
            let whole = places.clone().all(|place| {
                let Some(descriptor) = slab.descriptor(place) else { return false };
                let taken = hold(descriptor, me, 0).is_some();
                held += usize::from(taken);
                taken
            });
            let mut cleaned = 0;
            if whole {
                // SAFETY: every block of the piece is ours.
                unsafe {
                    let length = blocks * slab.block_bytes;
                    self.space.discard(Span { start: slab.block(first), length });
                }
            }
            for place in first..held {
                let Some(descriptor) = slab.descriptor(place) else { break };
                let seen = descriptor.load(Ordering::Relaxed);
                let mut free = seen & (!0 << GENERATION_SHIFT | DIRTY);
                if whole {
                    cleaned += u64::from(free & DIRTY != 0);
                    free &= !DIRTY;
                }
                descriptor.store(free, Ordering::Release);
            }
            count_down(&class.dirty, cleaned);
        }
    }

    /// What there is, counted block by block.
    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage { reserved: self.space.reserved(), ..Usage::default() };
        self.each_block(|slab, _, seen| {
            let bytes = slab.block_bytes as u64;
            if seen & STATE != FREE {
                usage.in_use += bytes;
                usage.blocks += 1;
            } else if seen & DIRTY != 0 {
                usage.retained += bytes;
            }
        });
        usage
    }

    fn classes(&self, family: Family) -> &[CachePadded<Class>; CLASSES] {
        &self.space.header().classes[usize::from(family == Family::Ring)]
    }

    fn idle_large(&self, family: Family) -> &AtomicU64 {
        &self.space.header().idle_large[usize::from(family == Family::Ring)]
    }

    fn class(&self, slab: &Slab) -> &Class {
        &self.classes(slab.family)[slab.class]
    }

    #[inline]
    fn slab(&self, index: u32) -> Option<&Slab> {
        let number = index as usize >> PLACE_BITS;
        let slab = self.slabs[number].load(Ordering::Acquire);
        // SAFETY: null, or a slab that `learn` published and that is there as long as the heap.
        match unsafe { slab.as_ref() } {
            None => self.learn(number),
            known => known,
        }
    }

    /// The slab whose number is one less than that.
    fn named_slab(&self, name: u64) -> Option<&Slab> {
        let number = name.checked_sub(1).filter(|number| *number < MAX_SLABS as u64)?;
        self.slab((number as u32) << PLACE_BITS)
    }

    #[inline]
    fn find(&self, index: u32) -> Option<(&Slab, &AtomicU64)> {
        let slab = self.slab(index)?;
        Some((slab, slab.descriptor(place(index))?))
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        for slab in &mut self.slabs {
            let slab = core::mem::take(slab.get_mut());
            if !slab.is_null() {
                // SAFETY: `grow` made it by `Box::into_raw`, and nobody can look it up any more.
                drop(unsafe { Box::from_raw(slab) });
            }
        }
    }
}

impl Rings for Heap {
    #[inline]
    fn ring(&self, reference: RingRef) -> Option<Ring<'_>> {
        let slab = self.slab(reference.index())?;
        let place = place(reference.index());
        if place >= slab.count || slab.family != Family::Ring {
            return None;
        }
        let slots = slab.block_bytes / size_of::<Slot>();
        // SAFETY: the block and its header are inside the slab and were zero at first, which is valid for both; all
        // that changes in them is atomic. Memory of this family is never anything else, so the references stay valid
        // for the heap's life, whosever ring it is by then.
        Some(unsafe {
            Ring {
                header: slab.headers.add(place).as_ref(),
                slots: core::slice::from_raw_parts(slab.block(place).cast().as_ptr(), slots),
            }
        })
    }

    fn allocate(&self, me: PeerId, slots: usize) -> Result<RingRef, OutOfMemory> {
        debug_assert!(slots.is_power_of_two() && slots <= MAX_RING_SLOTS);
        let Claimed { index, generation, .. } = self.claim(Family::Ring, slots * size_of::<Slot>(), me)?;
        Ok(RingRef::new(index, generation))
    }

    fn link(&self, me: PeerId, word: &AtomicU64, expected: u64, new: u64, fresh: Option<RingRef>) -> Result<(), u64> {
        let mut seen = expected;
        let linked = self.transact(me, |transaction| {
            seen = word.load(Ordering::Acquire);
            if seen != expected {
                return None;
            }
            transaction.set(word, new);
            fresh.map_or(Some(()), |fresh| self.hand_over_with(transaction, fresh.index(), None))
        });
        linked.ok_or(seen)
    }

    fn unlink(&self, me: PeerId, first: &AtomicU64, ring: RingRef, following: u64) -> bool {
        let unlinked = self.transact(me, |transaction| {
            let name = u64::from(ring.generation()) << 32 | u64::from(ring.index());
            if first.load(Ordering::Acquire) != name {
                return None;
            }
            transaction.set(first, following);
            self.hand_over_with(transaction, ring.index(), Some(me))
        });
        if unlinked.is_some() {
            self.free(me, ring);
        }
        unlinked.is_some()
    }

    fn free(&self, me: PeerId, reference: RingRef) {
        self.give_back(me, reference.index());
        self.trim(me); // a ring too many was a sign that messages had piled up
    }
}

/// Holds a free block that has the flag `wanted`, so that nobody takes it while its pages go; gives its free descriptor.
fn hold(descriptor: &AtomicU64, me: PeerId, wanted: u64) -> Option<u64> {
    let seen = descriptor.load(Ordering::Relaxed);
    if seen & STATE != FREE || seen & wanted != wanted {
        return None;
    }
    let mine = seen | OWNED | name_of(me);
    descriptor.compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed).ok()
}

/// A participant in a descriptor.
fn name_of(peer: PeerId) -> u64 {
    u64::from(peer.get()) << PEER_SHIFT
}

/// The descriptor of a block that becomes a participant's, or a part of some structure.
fn owned_by(descriptor: u64, owner: Option<PeerId>) -> u64 {
    let state = owner.map_or(QUEUED, |peer| OWNED | name_of(peer));
    descriptor & !(STATE | PEER | TAKEN) | state
}

/// Takes so many off a count that kills may have made too small.
fn count_down(count: &AtomicU64, by: u64) {
    // Relaxed: it is a hint.
    if count.fetch_sub(by, Ordering::Relaxed) < by {
        count.store(0, Ordering::Relaxed);
    }
}

/// Bytes before the blocks of a slab, in whole pages.
fn lead_bytes(family: Family, count: usize) -> usize {
    let headers = if family == Family::Ring { (count + 1) * size_of::<RingHeader>() } else { 0 };
    (count * size_of::<AtomicU64>() + headers).next_multiple_of(page_bytes())
}

/// The most references that a block can hold in its last words.
fn most_pins(slab: &Slab) -> usize {
    (slab.block_bytes / size_of::<AtomicU64>()).min(usize::from(u16::MAX))
}

/// How many references a block holds.
const fn pins(descriptor: u64) -> usize {
    ((descriptor & REFERENCES) >> REFERENCE.trailing_zeros()) as usize
}

const fn place(index: u32) -> usize {
    index as usize & (MAX_PLACES - 1)
}

/// The class of blocks that hold `bytes`: 2k for powers of two, 2k + 1 for the sizes halfway to the next.
fn class_of(bytes: usize) -> Option<usize> {
    let bytes = bytes.max(MIN_BLOCK_BYTES);
    let power = (bytes - 1).ilog2() + 1; // the smallest power of two that is enough
    let full = 2 * (power - MIN_BLOCK_BYTES.ilog2()) as usize;
    let class = if full > 0 && bytes <= class_bytes(full - 1) { full - 1 } else { full };
    (class < CLASSES).then_some(class)
}

/// Bytes of the blocks of a class.
const fn class_bytes(class: usize) -> usize {
    let power = MIN_BLOCK_BYTES << (class / 2);
    if class % 2 == 0 { power } else { power + power / 2 }
}
