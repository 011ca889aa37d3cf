//! Blocks of any size in a region's memory, each with a name of its owner.
//!
//! A slab is an array of blocks of one size with an array of descriptors before it. Taking a block is one
//! compare-and-swap of its descriptor from FREE to OWNED with the taker's name in it; there are no free lists, so
//! nothing is ever on its way between a list and an owner, and a thread that stops anywhere holds nobody up.
//! Where to look first is a hint (the block that was freed last, whose bytes are warm, then the place behind the
//! one that was taken last). Sizes are powers of two and the steps halfway between.
//!
//! Memory goes back to the kernel page by page (`MADV_DONTNEED`): a large block when it is freed and enough large ones
//! are free already, small ones when a queue that had grown gives a ring back. Addresses stay.
//!
//! `unsafe` here: the structures of `layout.rs` are laid over raw memory. What makes it sound is kept in private
//! memory, never read from the region: a slab's address, its block size and its count. An index from outside is
//! checked against them before any address is made of it. Blocks that were rings are only ever rings again, so a
//! `&Slot` is a `&Slot` for ever; all that other threads may change under a shared reference is atomic.
#![expect(unsafe_code, reason = "structures are laid over raw memory")]

use core::ptr::NonNull;

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::error::{AttachError, OutOfMemory};
use crate::layout::{ObjectHeader, ObjectId, ObjectKind, PeerId, RingHeader, Slot};
use crate::region::{Segments, Span, page_bytes};
use crate::ring::{MAX_RING_SLOTS, Ring, RingRef, Rings};
use crate::sync::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

const STATE: u64 = 3;
const FREE: u64 = 0;
const OWNED: u64 = 1;
const QUEUED: u64 = 2;
const OBJECT: u64 = 3;
/// The block's pages were written since the kernel last took them back.
const DIRTY: u64 = 4;
const PEER_SHIFT: u32 = 4;
const REFERENCE: u64 = 1 << 16;
const REFERENCES: u64 = 0xFF_FFFF << 16;
const GENERATION_SHIFT: u32 = 40;

/// A block's index is its slab's number and its place in it.
const PLACE_BITS: u32 = 18;
const MAX_PLACES: usize = 1 << PLACE_BITS;
const MAX_SLABS: usize = 1 << (32 - PLACE_BITS);
/// Marks "no block" where a hint is missing. Its slab, the last number, is never made.
const NOWHERE: u32 = u32::MAX;

/// The smallest block: two cache lines.
const MIN_BLOCK_BYTES: usize = 128;
/// Two sizes for every power of two from [`MIN_BLOCK_BYTES`] to 1 TiB.
const CLASSES: usize = 2 * 34;
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

/// Where the blocks of one size are.
#[derive(Debug)]
struct Class {
    /// The slab that was made last; slabs are linked from there. [`NOWHERE`] if there is none.
    newest: AtomicU32,
    /// The block that was freed last.
    hint: AtomicU32,
    /// How many blocks are taken.
    taken: AtomicUsize,
    /// How many blocks have been written since the kernel took them back, taken or not.
    dirty: AtomicUsize,
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
    /// The slab of the same class that was made before it.
    older: u32,
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

/// A heap over segments of memory.
#[derive(Debug)]
pub(crate) struct Heap {
    segments: Segments,
    slabs: Box<[AtomicPtr<Slab>]>,
    /// How many slabs there are; held while one is added.
    slab_count: Mutex<u32>,
    data: [CachePadded<Class>; CLASSES],
    rings: [CachePadded<Class>; CLASSES],
    /// Bytes of large free blocks that stay, by family.
    idle_large: [AtomicUsize; 2],
    /// Where the next look for pages to give back starts.
    trim_cursor: AtomicUsize,
    transactions: Mutex<()>,
}

/// Changes that a transaction will make.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    changes: Vec<(&'static AtomicU64, u64)>,
}

impl Transaction {
    pub(crate) fn set(&mut self, word: &AtomicU64, value: u64) {
        // SAFETY: words of the region live as long as the heap, which outlives the transaction.
        self.changes.push((unsafe { NonNull::from(word).as_ref() }, value));
    }
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
    pub(crate) fn new() -> Result<Heap, OutOfMemory> {
        let class = || {
            CachePadded::new(Class {
                newest: AtomicU32::new(NOWHERE),
                hint: AtomicU32::new(NOWHERE),
                taken: AtomicUsize::new(0),
                dirty: AtomicUsize::new(0),
            })
        };
        Ok(Heap {
            segments: Segments::new()?,
            slabs: (0..MAX_SLABS).map(|_| AtomicPtr::default()).collect(),
            slab_count: Mutex::new(0),
            data: std::array::from_fn(|_| class()),
            rings: std::array::from_fn(|_| class()),
            idle_large: std::array::from_fn(|_| AtomicUsize::new(0)),
            trim_cursor: AtomicUsize::new(0),
            transactions: Mutex::new(()),
        })
    }

    pub(crate) fn segments(&self) -> &Segments {
        &self.segments
    }

    /// Takes a block of at least `bytes` bytes for `owner`.
    pub(crate) fn take(&self, owner: PeerId, bytes: usize) -> Result<u32, OutOfMemory> {
        Ok(self.claim(Family::Data, bytes, OWNED | u64::from(owner.get()) << PEER_SHIFT)?.index)
    }

    /// Hands a block that its producer owns to the queue, or one that the queue owns to its consumer.
    pub(crate) fn hand_over(&self, index: u32, to: Option<PeerId>) {
        let Some((_, descriptor)) = self.find(index) else { return };
        let state = to.map_or(QUEUED, |peer| OWNED | u64::from(peer.get()) << PEER_SHIFT);
        let kept = descriptor.load(Ordering::Relaxed) & (!0 << GENERATION_SHIFT | DIRTY);
        // Relaxed: the slot that names the block publishes it.
        descriptor.store(kept | state, Ordering::Relaxed);
    }

    /// Changes several words at once.
    pub(crate) fn transact<T>(&self, _me: PeerId, body: impl FnOnce(&mut Transaction) -> Option<T>) -> Option<T> {
        let _held = self.transactions.lock();
        let mut changes = Transaction::default();
        let result = body(&mut changes)?;
        for (word, value) in changes.changes {
            word.store(value, Ordering::Release);
        }
        Some(result)
    }

    /// [`Heap::hand_over`] as a part of a transaction.
    pub(crate) fn hand_over_with(&self, changes: &mut Transaction, index: u32, to: Option<PeerId>) {
        let Some((_, descriptor)) = self.find(index) else { return };
        let state = to.map_or(QUEUED, |peer| OWNED | u64::from(peer.get()) << PEER_SHIFT);
        let kept = descriptor.load(Ordering::Relaxed) & (!0 << GENERATION_SHIFT | DIRTY);
        changes.set(descriptor, kept | state);
    }

    /// The address and size of a block, if the index leads to one.
    pub(crate) fn memory(&self, index: u32) -> Option<(NonNull<u8>, usize)> {
        let slab = self.slab(index)?;
        let place = place(index);
        (place < slab.count && slab.family == Family::Data).then(|| (slab.block(place), slab.block_bytes))
    }

    /// Gives a block back.
    pub(crate) fn give_back(&self, me: PeerId, index: u32) {
        let Some((slab, descriptor)) = self.find(index) else { return };
        let class = self.class(slab);
        let mut free = descriptor.load(Ordering::Relaxed) & (!0 << GENERATION_SHIFT) | DIRTY;
        if slab.block_bytes >= LARGE_BYTES
            && self.idle_large(slab.family).fetch_add(slab.block_bytes, Ordering::Relaxed) + slab.block_bytes
                > slab.family.retained_bytes()
            && !self.evict(me, slab.family, class)
        {
            self.discard_block(slab, place(index));
            free &= !DIRTY;
        }
        // SYNC POINT: Release, so that the next owner's bytes come after our last look.
        descriptor.store(free, Ordering::Release);
        class.hint.store(index, Ordering::Relaxed);
        class.taken.fetch_sub(1, Ordering::Relaxed);
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
            for (slab, place) in self.places(class) {
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
    fn places<'a>(&'a self, class: &Class) -> impl Iterator<Item = (&'a Slab, usize)> {
        let newest = self.slab(class.newest.load(Ordering::Acquire) << PLACE_BITS);
        core::iter::successors(newest, |slab| self.slab(slab.older << PLACE_BITS))
            .flat_map(|slab| (0..slab.count).map(move |place| (slab, place)))
    }

    /// Gives a large block's pages back to the kernel. The block is the caller's.
    fn discard_block(&self, slab: &Slab, place: usize) {
        // SAFETY: the caller owns the block.
        unsafe { self.segments.discard(Span { start: slab.block(place).as_ptr(), length: slab.block_bytes }) };
        self.idle_large(slab.family).fetch_sub(slab.block_bytes, Ordering::Relaxed);
        self.class(slab).dirty.fetch_sub(1, Ordering::Relaxed);
    }

    /// Makes an object of `bytes` bytes with one reference, all zero but for its kind.
    pub(crate) fn create_object(&self, kind: ObjectKind, bytes: usize) -> Result<ObjectId, OutOfMemory> {
        let refused = |error: OutOfMemory| OutOfMemory { requested: bytes as u64, ..error };
        // The reference is there from the start, but nobody knows the id before this returns.
        // Blocks for a multiple of the smallest one are such multiples themselves, and so aligned to it in their slab.
        let room = bytes.checked_next_multiple_of(MIN_BLOCK_BYTES).unwrap_or(usize::MAX);
        let block = self.claim(Family::Data, room, OBJECT | REFERENCE).map_err(refused)?;
        let Claimed { index, generation, is_zero } = block;
        let (memory, _) = self.memory(index).expect("it was just taken");
        if !is_zero {
            // SAFETY: the block is ours alone until its id is known, and it is that large.
            unsafe { memory.write_bytes(0, bytes) };
        }
        // SAFETY: every object starts with a header, which is zero now; blocks are aligned to 128 bytes.
        unsafe { memory.cast::<ObjectHeader>().as_ref() }.kind.store(kind as u32, Ordering::Release);
        Ok(ObjectId { index, generation })
    }

    /// Adds a reference to an object, if it still is what the id names.
    pub(crate) fn acquire_object(&self, id: ObjectId, kind: ObjectKind) -> Result<(), AttachError> {
        let (_, descriptor) = self.find(id.index).ok_or(AttachError::Corrupt)?;
        let mut seen = descriptor.load(Ordering::Relaxed);
        loop {
            if seen & STATE != OBJECT || seen & REFERENCES == 0 || (seen >> GENERATION_SHIFT) as u32 != id.generation {
                return Err(AttachError::Gone);
            }
            if seen & REFERENCES == REFERENCES {
                return Err(AttachError::Corrupt); // 16,777,215 references: no program has as many
            }
            // Acquire: what made the object comes before what we do with it.
            match descriptor.compare_exchange_weak(seen, seen + REFERENCE, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        let (memory, _) = self.memory(id.index).ok_or(AttachError::Corrupt)?;
        // SAFETY: objects start with a header, and this one stays as long as we hold the reference.
        if unsafe { memory.cast::<ObjectHeader>().as_ref() }.kind.load(Ordering::Relaxed) == kind as u32 {
            Ok(())
        } else {
            self.release_object(id);
            Err(AttachError::Corrupt)
        }
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

    /// The objects that exist, as it was a moment ago.
    pub(crate) fn objects(&self) -> Vec<ObjectId> {
        let mut found = Vec::new();
        for number in 0..MAX_SLABS as u32 {
            let Some(slab) = self.slab(number << PLACE_BITS) else { break };
            let places = if slab.family == Family::Data { slab.count } else { 0 };
            for place in 0..places {
                let seen = slab.descriptor(place).map_or(FREE, |descriptor| descriptor.load(Ordering::Relaxed));
                if seen & STATE == OBJECT && seen & REFERENCES != 0 {
                    let index = number << PLACE_BITS | place as u32;
                    found.push(ObjectId { index, generation: (seen >> GENERATION_SHIFT) as u32 });
                }
            }
        }
        found
    }

    /// The kind of an object that the caller holds a reference to.
    pub(crate) fn object_kind(&self, id: ObjectId) -> Option<ObjectKind> {
        let (memory, _) = self.memory(id.index)?;
        // SAFETY: objects start with a header, and this one stays as long as the caller holds the reference.
        let kind = unsafe { memory.cast::<ObjectHeader>().as_ref() }.kind.load(Ordering::Relaxed);
        ObjectKind::ALL.iter().copied().find(|known| *known as u32 == kind)
    }

    /// Takes a reference back; true if it was the last, and then the caller alone owns the block.
    pub(crate) fn release_object(&self, id: ObjectId) -> bool {
        let Some((_, descriptor)) = self.find(id.index) else { return false };
        // AcqRel: all that others did with the object comes before what the last one does to end it.
        descriptor.fetch_sub(REFERENCE, Ordering::AcqRel) & REFERENCES == REFERENCE
    }

    /// Claims a block of a class: the descriptor's new low bits are `state`.
    fn claim(&self, family: Family, bytes: usize, state: u64) -> Result<Claimed, OutOfMemory> {
        let number = class_of(bytes)
            .ok_or_else(|| OutOfMemory { requested: bytes as u64, available: crate::region::available_memory() })?;
        let class = &self.classes(family)[number];
        let hint = class.hint.load(Ordering::Relaxed);
        if let Some((_, descriptor)) = self.find(hint)
            && let Some(block) = self.claim_one(family, class, class_bytes(number), hint, descriptor, state)
        {
            return Ok(block);
        }
        if class.dirty.load(Ordering::Relaxed) > class.taken.load(Ordering::Relaxed)
            && let Some(found) = self.search(family, class, DIRTY, state)
        {
            return Ok(found); // one whose pages the kernel need not give again
        }
        loop {
            let newest = class.newest.load(Ordering::Acquire);
            if let Some(found) = self.search(family, class, 0, state) {
                return Ok(found);
            }
            self.grow(family, number, newest)?;
        }
    }

    /// Claims a free block of a class that has the flag `wanted`, if there is one where it looks.
    fn search(&self, family: Family, class: &Class, wanted: u64, state: u64) -> Option<Claimed> {
        let mut number = class.newest.load(Ordering::Acquire);
        while let Some(slab) = self.slab(number << PLACE_BITS) {
            let start = slab.cursor.load(Ordering::Relaxed);
            for step in 0..slab.count.min(SEARCH) {
                let place = if start + step < slab.count { start + step } else { start + step - slab.count };
                let descriptor = slab.descriptor(place)?;
                let index = number << PLACE_BITS | place as u32;
                if descriptor.load(Ordering::Relaxed) & wanted == wanted
                    && let Some(block) = self.claim_one(family, class, slab.block_bytes, index, descriptor, state)
                {
                    slab.cursor.store((place + 1) % slab.count, Ordering::Relaxed);
                    return Some(block);
                }
            }
            slab.cursor.store((start + slab.count.min(SEARCH)) % slab.count, Ordering::Relaxed);
            number = slab.older;
        }
        None
    }

    fn claim_one(
        &self,
        family: Family,
        class: &Class,
        block_bytes: usize,
        index: u32,
        descriptor: &AtomicU64,
        state: u64,
    ) -> Option<Claimed> {
        let seen = descriptor.load(Ordering::Relaxed);
        if seen & STATE != FREE {
            return None;
        }
        let generation = ((seen >> GENERATION_SHIFT) as u32 + 1) & 0xFF_FFFF;
        // Counted as written from now on, whether or not its owner gets round to it.
        let mine = u64::from(generation) << GENERATION_SHIFT | DIRTY | state;
        // SYNC POINT: Acquire pairs with the Release in `give_back`.
        descriptor.compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed).ok()?;
        class.taken.fetch_add(1, Ordering::Relaxed);
        if seen & DIRTY == 0 {
            class.dirty.fetch_add(1, Ordering::Relaxed);
        } else if block_bytes >= LARGE_BYTES {
            self.idle_large(family).fetch_sub(block_bytes, Ordering::Relaxed);
        }
        Some(Claimed { index, generation, is_zero: seen & DIRTY == 0 })
    }

    /// Adds a slab to a class, unless somebody did so since `newest` was read.
    #[cold]
    fn grow(&self, family: Family, number: usize, newest: u32) -> Result<(), OutOfMemory> {
        let class = &self.classes(family)[number];
        let mut slab_count = self.slab_count.lock();
        if class.newest.load(Ordering::Acquire) != newest {
            return Ok(());
        }
        let block_bytes = class_bytes(number);
        let before = self.slab(newest << PLACE_BITS).map_or(0, |slab| slab.count);
        let count = (2 * before).max(FIRST_SLAB_BYTES / block_bytes).clamp(1, MAX_PLACES);
        let count = count.min((MAX_SLAB_BYTES / block_bytes).max(1));
        let lead = count * size_of::<AtomicU64>()
            + if family == Family::Ring { (count + 1) * size_of::<RingHeader>() } else { 0 };
        let lead = lead.next_multiple_of(page_bytes());
        if *slab_count as usize == MAX_SLABS - 1 {
            return Err(OutOfMemory { requested: block_bytes as u64, available: 0 });
        }
        let span = self.segments.cut(lead + count * block_bytes)?;
        let start = NonNull::new(span.start).expect("a mapping is not at address zero");
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
            class: number,
            family,
            older: newest,
            cursor: AtomicUsize::new(0),
        };
        // Release publishes the slab to whoever finds its number. Slabs live as long as the heap.
        self.slabs[*slab_count as usize].store(Box::into_raw(Box::new(slab)), Ordering::Release);
        class.newest.store(*slab_count, Ordering::Release);
        *slab_count += 1;
        Ok(())
    }

    /// Gives pages of small free blocks back to the kernel, where a class keeps more of them than it should.
    ///
    /// Called when a queue that had grown gives a ring back. It goes on from where it found enough the last time: a
    /// queue's blocks become free in the order in which its slabs were made.
    #[cold]
    pub(crate) fn trim(&self, me: PeerId) {
        let slab_count = *self.slab_count.lock() as usize;
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
        class.dirty.load(Ordering::Relaxed).saturating_sub(taken) * slab.block_bytes
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
                    self.segments.discard(Span { start: slab.block(first).as_ptr(), length });
                }
            }
            for place in first..held {
                let Some(descriptor) = slab.descriptor(place) else { break };
                let seen = descriptor.load(Ordering::Relaxed);
                let mut free = seen & (!0 << GENERATION_SHIFT | DIRTY);
                if whole {
                    cleaned += usize::from(free & DIRTY != 0);
                    free &= !DIRTY;
                }
                descriptor.store(free, Ordering::Release);
            }
            class.dirty.fetch_sub(cleaned, Ordering::Relaxed);
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let mut usage =
            Usage { reserved: self.segments.spans().iter().map(|span| span.length as u64).sum(), ..Usage::default() };
        for (number, class) in self.data.iter().enumerate().chain(self.rings.iter().enumerate()) {
            let taken = class.taken.load(Ordering::Relaxed);
            let idle = class.dirty.load(Ordering::Relaxed).saturating_sub(taken);
            usage.in_use += (taken * class_bytes(number)) as u64;
            usage.retained += (idle * class_bytes(number)) as u64;
            usage.blocks += taken as u64;
        }
        usage
    }

    fn classes(&self, family: Family) -> &[CachePadded<Class>; CLASSES] {
        match family {
            Family::Data => &self.data,
            Family::Ring => &self.rings,
        }
    }

    fn idle_large(&self, family: Family) -> &AtomicUsize {
        &self.idle_large[usize::from(family == Family::Ring)]
    }

    fn class(&self, slab: &Slab) -> &Class {
        &self.classes(slab.family)[slab.class]
    }

    #[inline]
    fn slab(&self, index: u32) -> Option<&Slab> {
        let slab = self.slabs[index as usize >> PLACE_BITS].load(Ordering::Acquire);
        // SAFETY: null, or a slab that `grow` published and that lives as long as the heap.
        unsafe { slab.as_ref() }
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
        let place = place(reference.index());
        let slab = self.slab(reference.index()).filter(|slab| place < slab.count && slab.family == Family::Ring)?;
        let slots = slab.block_bytes / size_of::<Slot>();
        // SAFETY: the block and its header are inside the slab and were zero at first, which is valid for both; all
        // that changes in them is atomic. Memory of this family is never anything else, so the references stay valid
        // for the heap's life, whosever ring it is by then.
        unsafe {
            Some(Ring {
                header: slab.headers.add(place).as_ref(),
                slots: core::slice::from_raw_parts(slab.block(place).cast().as_ptr(), slots),
            })
        }
    }

    fn allocate(&self, me: PeerId, slots: usize) -> Result<RingRef, OutOfMemory> {
        debug_assert!(slots.is_power_of_two() && slots <= MAX_RING_SLOTS);
        let mine = OWNED | u64::from(me.get()) << PEER_SHIFT;
        let Claimed { index, generation, .. } = self.claim(Family::Ring, slots * size_of::<Slot>(), mine)?;
        Ok(RingRef::new(index, generation))
    }

    fn link(&self, me: PeerId, word: &AtomicU64, expected: u64, new: u64, fresh: Option<RingRef>) -> Result<(), u64> {
        let mut seen = expected;
        self.transact(me, |changes| {
            seen = word.load(Ordering::Acquire);
            if seen != expected {
                return None;
            }
            changes.set(word, new);
            if let Some(fresh) = fresh {
                self.hand_over_with(changes, fresh.index(), None);
            }
            Some(())
        })
        .ok_or(seen)
    }

    fn unlink(&self, me: PeerId, first: &AtomicU64, ring: RingRef, following: u64) -> bool {
        let unlinked = self.transact(me, |changes| {
            let seen = first.load(Ordering::Acquire);
            (seen == u64::from(ring.generation()) << 32 | u64::from(ring.index()))
                .then(|| changes.set(first, following))
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
    let mine = seen | OWNED | u64::from(me.get()) << PEER_SHIFT;
    descriptor.compare_exchange(seen, mine, Ordering::Acquire, Ordering::Relaxed).ok()
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
