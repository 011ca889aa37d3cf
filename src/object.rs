//! Shared objects and their handles: a region, the objects in it, and messages that keep objects alive.
//!
//! An object lives as long as anybody holds a reference: a handle in an interpreter, or a message that names it.
//! Its id ([`ObjectId`]) may be copied anywhere and keeps nothing alive; once the object is gone the id leads to
//! an error, even when its memory has become something else.
//!
//! `unsafe` here: a handle is a reference to an object, so it may borrow the object's state for as long as it
//! lives; a message owns its block, so it may copy to it and from it.
#![expect(unsafe_code, reason = "handles borrow what they keep alive; messages copy into blocks they own")]

use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::ptr::NonNull;
use std::collections::HashMap;
use std::sync::OnceLock;

use crossbeam_utils::CachePadded;
use parking_lot::Mutex;

use crate::barrier::Barrier;
use crate::condition::Condition;
use crate::error::{AttachError, NameError, OutOfMemory};
use crate::event::Bell;
use crate::flag::Flag;
use crate::heap::{Heap, Usage};
use crate::layout::{Entry, INLINE_BYTES, INLINE_WORDS, Meta, ObjectHeader, ObjectId, ObjectKind, PeerId};
use crate::lock::{Lock, Owner, RLock};
use crate::memory::{Element, Format, Memory};
use crate::ordered::{LifoQueue, Order, OrderedQueue, PriorityQueue};
use crate::peer::Peers;
use crate::queue::Queue;
use crate::ring::Cell;
use crate::semaphore::Semaphore;
use crate::sync::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};
use crate::waiters::{Bench, Benches};

/// Shared memory and everything in it.
#[derive(Debug)]
pub struct Region {
    number: u64,
    heap: Heap,
    peers: Peers,
    bell: CachePadded<Bell>,
    /// Memory that has a name, each with a reference of its own.
    names: Mutex<HashMap<String, ObjectId>>,
    /// How many objects there are of each kind, in the order of [`ObjectKind::ALL`].
    objects: [AtomicU64; ObjectKind::ALL.len()],
}

/// What a region holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Statistics {
    /// Its memory.
    pub memory: Usage,
    /// Objects that somebody refers to, of each kind in the order of [`ObjectKind::ALL`].
    pub objects: [u64; ObjectKind::ALL.len()],
    /// Participants: interpreters that have the module loaded.
    pub peers: u32,
}

impl Statistics {
    /// Objects of that kind that somebody refers to.
    pub fn count(&self, kind: ObjectKind) -> u64 {
        self.objects[place(kind)]
    }
}

/// A kind's place in [`ObjectKind::ALL`].
fn place(kind: ObjectKind) -> usize {
    ObjectKind::ALL.iter().position(|known| *known == kind).expect("ALL has all of them")
}

impl Region {
    /// A region in this process's own memory.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn new() -> Result<Region, OutOfMemory> {
        let mut number = [0; 8];
        // SAFETY: the kernel fills at most the eight bytes that it is given. Should it fail, then ids from another
        // process are told apart less surely, which costs an error message and no memory safety.
        unsafe { libc::getrandom(number.as_mut_ptr().cast(), number.len(), 0) };
        Ok(Region {
            number: u64::from_ne_bytes(number),
            heap: Heap::new()?,
            peers: Peers::new(),
            bell: CachePadded::default(),
            names: Mutex::default(),
            objects: std::array::from_fn(|_| AtomicU64::new(0)),
        })
    }

    /// The region that all interpreters of this process share.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn of_this_process() -> Result<&'static Region, OutOfMemory> {
        static REGION: OnceLock<Region> = OnceLock::new();
        if let Some(region) = REGION.get() {
            return Ok(region);
        }
        let region = Region::new()?;
        Ok(REGION.get_or_init(|| region))
    }

    /// The random number that tells this region from others.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Takes part: gives a number to name oneself by. None if 4,095 take part already.
    pub fn register(&self) -> Option<PeerId> {
        self.peers.register()
    }

    /// TEMPORARY, until the lead's is here.
    pub fn recover(&self, dead: PeerId) {
        self.heap.sweep(dead);
        self.peers.leave(dead);
    }

    /// Ends taking part. All of the peer's handles are gone.
    pub fn leave(&self, peer: PeerId) {
        self.peers.leave(peer);
    }

    /// What the region holds.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            memory: self.heap.usage(),
            objects: std::array::from_fn(|kind| self.objects[kind].load(Ordering::Relaxed)),
            peers: self.peers.count(),
        }
    }

    /// The address and length of each segment. They stay as they are for the region's life; more may follow.
    pub fn segments(&self) -> Vec<(*const u8, usize)> {
        self.heap.segments().spans().iter().map(|span| (span.start.cast_const(), span.length)).collect()
    }

    /// Makes a queue; `maxsize` as in [`set_maxsize`](crate::control::AnyQueue::set_maxsize).
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn create_queue(&self, me: PeerId, maxsize: i64) -> Result<Handle<'_, Queue>, OutOfMemory> {
        let queue = self.create::<Queue>(me, 0)?;
        if let Err(error) = queue.initialize(&self.heap, maxsize) {
            // Not a queue yet: take the reference back without emptying it.
            let id = queue.id;
            core::mem::forget(queue);
            self.heap.release_object(id);
            self.heap.give_back(me, id.index);
            self.count(ObjectKind::Queue).fetch_sub(1, Ordering::Relaxed);
            return Err(error);
        }
        Ok(queue)
    }

    /// Makes a queue that keeps an order; `maxsize` as in [`set_maxsize`](crate::control::AnyQueue::set_maxsize).
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn create_ordered_queue<O: Order>(
        &self,
        me: PeerId,
        maxsize: i64,
    ) -> Result<Handle<'_, OrderedQueue<O>>, OutOfMemory> {
        let queue = self.create::<OrderedQueue<O>>(me, 0)?;
        queue.initialize(maxsize);
        Ok(queue)
    }

    /// Makes any other object; `initialize` sets it up before anybody can know of it.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn create_shared<T>(
        &self,
        me: PeerId,
        initialize: impl FnOnce(&T),
    ) -> Result<Handle<'_, Shared<T>>, OutOfMemory>
    where
        Shared<T>: SharedState,
    {
        let object = self.create::<Shared<T>>(me, 0)?;
        initialize(&object);
        Ok(object)
    }

    /// Makes memory of `length` bytes, all zero.
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn create_memory(
        &self,
        me: PeerId,
        format: Format,
        length: usize,
    ) -> Result<Handle<'_, SharedMemory>, OutOfMemory> {
        let memory = self.create::<SharedMemory>(me, length)?;
        memory.initialize(format, length as u64);
        Ok(memory)
    }

    /// The same with a name by which others find it ([`Region::open_memory`]) and which keeps it alive, until
    /// [`Region::unlink_memory`].
    ///
    /// # Errors
    /// [`NameError`].
    pub fn create_named_memory(
        &self,
        me: PeerId,
        name: &str,
        format: Format,
        length: usize,
    ) -> Result<Handle<'_, SharedMemory>, NameError> {
        let mut names = self.names.lock();
        if names.contains_key(name) {
            return Err(NameError::Exists);
        }
        let memory = self.create_memory(me, format, length)?;
        let named = self.heap.acquire_object(memory.id, ObjectKind::Memory);
        debug_assert!(named.is_ok(), "we hold a reference to it");
        names.insert(name.to_owned(), memory.id);
        Ok(memory)
    }

    /// A handle to the memory of that name, if there is one.
    pub fn open_memory(&self, me: PeerId, name: &str) -> Option<Handle<'_, SharedMemory>> {
        let names = self.names.lock();
        names.get(name).and_then(|id| self.attach(*id, me).ok())
    }

    /// Takes a name away; false if there is none like it. The memory lives until its last handle has gone.
    pub fn unlink_memory(&self, me: PeerId, name: &str) -> bool {
        let unlinked = self.names.lock().remove(name);
        if let Some(id) = unlinked {
            self.release(id, me);
        }
        unlinked.is_some()
    }

    /// Makes an object with so many bytes behind its state.
    fn create<T: SharedState>(&self, me: PeerId, bytes: usize) -> Result<Handle<'_, T>, OutOfMemory> {
        let id = self.heap.create_object(T::KIND, size_of::<T>().saturating_add(bytes))?;
        self.count(T::KIND).fetch_add(1, Ordering::Relaxed);
        Ok(self.handle(id, me).expect("it was just made"))
    }

    /// A new handle to the object of that id.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach<T: SharedState>(&self, id: ObjectId, me: PeerId) -> Result<Handle<'_, T>, AttachError> {
        self.heap.acquire_object(id, T::KIND)?;
        self.handle(id, me).ok_or(AttachError::Corrupt)
    }

    fn handle<T: SharedState>(&self, id: ObjectId, me: PeerId) -> Option<Handle<'_, T>> {
        // SAFETY: the caller took a reference, which the handle keeps, to an object of this kind.
        let state = unsafe { self.heap.object(id) }?;
        Some(Handle { region: self, me, id, state })
    }

    /// Adds a reference for a message that names the object; [`Message`] gives it back.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn pin(&self, id: ObjectId, kind: ObjectKind) -> Result<(), AttachError> {
        self.heap.acquire_object(id, kind)
    }

    /// Takes a reference back, and with the last one the object.
    ///
    /// An object's messages may hold the last references to others, and so on: not by recursion, which a long row
    /// of queues in queues would overflow the stack with.
    pub fn release(&self, id: ObjectId, me: PeerId) {
        if !self.heap.release_object(id) {
            return;
        }
        let mut ended = vec![id];
        while let Some(id) = ended.pop() {
            let Some(kind) = self.heap.object_kind(id) else { continue };
            let mut release = |id| {
                if self.heap.release_object(id) {
                    ended.push(id);
                }
            };
            match kind {
                ObjectKind::Queue => {
                    // SAFETY: it is of that kind, and ours alone until we give back its block.
                    if let Some(queue) = unsafe { self.last::<Queue>(id) } {
                        let mut message = Message::new(self, me);
                        message.prepare(u64::MAX);
                        while queue.take(self, me, &mut message).is_ok() {
                            message.release_pins(&mut release);
                        }
                        queue.destroy(&self.heap, me);
                    }
                }
                ObjectKind::LifoQueue => {
                    // SAFETY: as above.
                    if let Some(queue) = unsafe { self.last::<LifoQueue>(id) } {
                        queue.destroy(self, me, |message| message.release_pins(&mut release));
                    }
                }
                ObjectKind::PriorityQueue => {
                    // SAFETY: as above.
                    if let Some(queue) = unsafe { self.last::<PriorityQueue>(id) } {
                        queue.destroy(self, me, |message| message.release_pins(&mut release));
                    }
                }
                ObjectKind::Condition => {
                    // SAFETY: as above.
                    if let Some(object) = unsafe { self.last::<SharedCondition>(id) } {
                        object.waiters().benches(self).map(bench_id).for_each(release);
                    }
                }
                ObjectKind::Barrier => {
                    // SAFETY: as above.
                    if let Some(object) = unsafe { self.last::<SharedBarrier>(id) } {
                        object.waiters().benches(self).map(bench_id).for_each(release);
                    }
                }
                _ => {}
            }
            self.count(kind).fetch_sub(1, Ordering::Relaxed);
            self.heap.give_back(me, id.index);
        }
    }

    /// An object whose last reference was just taken back.
    ///
    /// # Safety
    /// It is of that kind, and its block is given back only afterwards.
    unsafe fn last<T: SharedState>(&self, id: ObjectId) -> Option<&T> {
        // SAFETY: without a reference nobody else finds the object, and its block stays the caller's.
        unsafe { self.heap.object::<T>(id).map(|object| object.as_ref()) }
    }

    pub(crate) fn heap(&self) -> &Heap {
        &self.heap
    }

    /// The entries of a table, a block that belongs to one queue; none if there is no block of that index.
    pub(crate) fn table(&self, block: u32) -> &[Entry] {
        let Some((memory, bytes)) = self.heap.memory(block) else { return &[] };
        // SAFETY: blocks are aligned to two cache lines, any bytes are valid entries, and all that changes in them is
        // atomic. The block is a table for as long as its queue lives, which the caller holds a reference to; nobody
        // else knows the block.
        unsafe { core::slice::from_raw_parts(memory.cast().as_ptr(), bytes / size_of::<Entry>()) }
    }

    /// The locks that somebody holds, reentrant ones included, and who holds them.
    pub fn held_locks(&self, me: PeerId) -> Vec<(ObjectKind, ObjectId, Owner)> {
        let held = |id: ObjectId| {
            // Only for the look: the object may be gone by now, or become another one.
            if let Ok(lock) = self.attach::<SharedLock>(id, me) {
                return Lock::owner(&lock).map(|owner| (ObjectKind::Lock, id, owner));
            }
            let lock = self.attach::<SharedRLock>(id, me).ok()?;
            lock.lock().owner().map(|owner| (ObjectKind::RLock, id, owner))
        };
        self.heap.objects().into_iter().filter_map(held).collect()
    }

    /// What those sleep on who wait for several things at once.
    #[inline(always)]
    pub fn bell(&self) -> &Bell {
        &self.bell
    }

    fn count(&self, kind: ObjectKind) -> &AtomicU64 {
        &self.objects[place(kind)]
    }
}

/// A bench is an object with one reference, which belongs to the object that it has seats for.
impl Benches for Region {
    fn bench(&self, name: u64) -> Option<&Bench> {
        let id = bench_id(name);
        if self.heap.object_kind(id) != Some(ObjectKind::Bench) {
            return None;
        }
        // SAFETY: whoever asks holds a reference to the object that the bench belongs to, so it stays.
        unsafe { self.heap.object::<Shared<Bench>>(id).map(|bench| &bench.as_ref().state) }
    }

    fn make(&self) -> Result<u64, OutOfMemory> {
        let id = self.heap.create_object(ObjectKind::Bench, size_of::<Shared<Bench>>())?;
        self.count(ObjectKind::Bench).fetch_add(1, Ordering::Relaxed);
        Ok(BENCH | u64::from(id.generation) << 32 | u64::from(id.index))
    }

    fn discard(&self, name: u64) {
        // Nobody has it, so anybody's name does.
        if let Some(somebody) = PeerId::new(1) {
            self.release(bench_id(name), somebody);
        }
    }
}

/// Set in every bench's name, which is never 0 so.
const BENCH: u64 = 1 << 63;

fn bench_id(name: u64) -> ObjectId {
    ObjectId { index: name as u32, generation: ((name & !BENCH) >> 32) as u32 }
}

/// The state of a kind of object, as it lies in a region.
///
/// # Safety
/// `repr(C)`, starts with an `ObjectHeader`, valid when all bytes are zero, and changes only by atomics.
#[expect(private_bounds, reason = "sealed: the header is the engine's own")]
pub unsafe trait SharedState: AsRef<ObjectHeader> + 'static {
    /// What marks it in its header.
    const KIND: ObjectKind;
}

/// A [`Lock`], a [`Flag`], and so on, as an object.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Shared<T> {
    header: ObjectHeader,
    state: T,
}

impl<T> AsRef<ObjectHeader> for Shared<T> {
    fn as_ref(&self) -> &ObjectHeader {
        &self.header
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        &self.state
    }
}

/// Makes objects of what all zero bytes are valid for and only changes by atomics: each of these rooms says so.
macro_rules! shared {
    ($($(#[$doc:meta])* $name:ident: $state:ident;)*) => {
        $(
            $(#[$doc])*
            pub type $name = Shared<$state>;

            // SAFETY: as the trait asks.
            unsafe impl SharedState for $name {
                const KIND: ObjectKind = ObjectKind::$state;
            }
        )*
    };
}

shared! {
    /// A [`Lock`] as an object.
    SharedLock: Lock;
    /// An [`RLock`] as an object.
    SharedRLock: RLock;
    /// A [`Flag`] as an object.
    SharedFlag: Flag;
    /// A [`Semaphore`] as an object.
    SharedSemaphore: Semaphore;
    /// A [`Condition`] as an object.
    SharedCondition: Condition;
    /// A [`Barrier`] as an object.
    SharedBarrier: Barrier;
    /// A [`Memory`] as an object, with its bytes behind it.
    SharedMemory: Memory;
}

const _: () = assert!(size_of::<SharedMemory>() == 128);

// SAFETY: as the trait asks; see queue.rs.
unsafe impl SharedState for Queue {
    const KIND: ObjectKind = ObjectKind::Queue;
}

// SAFETY: as the trait asks; see ordered.rs.
unsafe impl<O: Order> SharedState for OrderedQueue<O> {
    const KIND: ObjectKind = O::KIND;
}

/// A reference to an object: keeps it alive.
#[derive(Debug)]
pub struct Handle<'r, T: SharedState> {
    region: &'r Region,
    me: PeerId,
    id: ObjectId,
    state: NonNull<T>,
}

// SAFETY: the state changes only by atomics.
unsafe impl<T: SharedState> Send for Handle<'_, T> {}
// SAFETY: as above.
unsafe impl<T: SharedState> Sync for Handle<'_, T> {}

impl<'r, T: SharedState> Handle<'r, T> {
    /// The object's name.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// The region that the object is in.
    pub fn region(&self) -> &'r Region {
        self.region
    }

    /// Who holds this handle.
    pub fn owner(&self) -> PeerId {
        self.me
    }
}

impl<T: SharedState> Deref for Handle<'_, T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the handle is a reference to the object, whose state therefore stays.
        unsafe { self.state.as_ref() }
    }
}

impl Handle<'_, SharedMemory> {
    /// Where its bytes are, and how many: valid as long as anybody has a handle to it, and aligned to 128 bytes.
    ///
    /// Others may read and write them at any time, so no reference to them is sound: they are for those who copy them
    /// through pointers, and for code that does not follow Rust's rules anyway.
    pub fn bytes(&self) -> (NonNull<u8>, usize) {
        // How large the block is, is private knowledge; how much of it is used lies in the region, and may be wrong.
        let room = self.region.heap.memory(self.id.index).map_or(0, |(_, size)| size - size_of::<SharedMemory>());
        let length = usize::try_from(self.length()).map_or(room, |length| length.min(room));
        // SAFETY: the object was made with its bytes behind it, in one block.
        (unsafe { self.state.add(1) }.cast(), length)
    }

    /// How many elements it has.
    pub fn elements(&self) -> usize {
        match self.format().width {
            0 => 0,
            width => self.bytes().1 / width as usize,
        }
    }

    /// The element at that place, if there is one.
    pub fn element(&self, place: usize) -> Option<Element<'_>> {
        let width = self.format().width as usize;
        let (bytes, length) = self.bytes();
        if width == 0 || place >= length / width {
            return None;
        }
        // SAFETY: the element is inside the memory, which the handle keeps alive, and aligned to its width, as the
        // bytes are to 128. It is only accessed by atomics of this width: the width never changes. What those do who
        // were given the address is outside of Rust; an atomic may have any value at any time.
        unsafe {
            let start = bytes.add(place * width);
            match width {
                1 => Some(Element::One(start.cast::<AtomicU8>().as_ref())),
                2 => Some(Element::Two(start.cast::<AtomicU16>().as_ref())),
                4 => Some(Element::Four(start.cast::<AtomicU32>().as_ref())),
                8 => Some(Element::Eight(start.cast::<AtomicU64>().as_ref())),
                _ => None, // only memory that somebody wrote over
            }
        }
    }
}

impl<T: SharedState> Drop for Handle<'_, T> {
    fn drop(&mut self) {
        self.region.release(self.id, self.me);
    }
}

/// A message on its way in or out. It owns its block and its references until a queue takes it over.
///
/// It is filled in place and not moved while it is: it is as large as a slot.
#[derive(Debug)]
pub struct Message<'r> {
    region: &'r Region,
    me: PeerId,
    /// As a slot holds it: the payload, or the index of its block.
    cell: Cell,
    /// The most bytes that its owner expects to get.
    most: u64,
}

impl<'r> Message<'r> {
    /// A message without a payload.
    #[inline(always)]
    pub fn new(region: &'r Region, me: PeerId) -> Message<'r> {
        Message { region, me, cell: Cell::default(), most: crate::queue::LARGE_BYTES }
    }

    /// Lets a queue give it a message of up to `bytes` bytes.
    pub fn prepare(&mut self, bytes: u64) {
        self.most = bytes;
    }

    pub(crate) fn prepared_for(&self) -> u64 {
        self.most
    }

    /// The longest message that [`Message::copy`] may copy to it as it is.
    pub(crate) fn room(&self) -> u64 {
        self.meta().length.max(INLINE_BYTES as u64)
    }

    /// Makes it a copy of a message that is a queue's and stays there as long as this takes: with a reference of its own
    /// for each of that one's. There is room for it.
    pub(crate) fn copy(&mut self, cell: &Cell) {
        let meta = Meta::unpack(cell.meta);
        let memory = |index: u64| self.region.heap.memory(index as u32).filter(|(_, size)| *size as u64 >= meta.length);
        if meta.is_inline() {
            self.empty();
            self.cell = *cell;
        } else if let (Some((from, _)), Some((to, _))) = (memory(cell.payload[0]), memory(self.cell.payload[0])) {
            // SAFETY: ours holds as many bytes, nobody else uses it, and the other is not written while it is a queue's.
            unsafe { from.copy_to_nonoverlapping(to, meta.length as usize) };
            self.cell.meta = cell.meta;
        }
        let first = self.length();
        for (place, id) in self.pins().enumerate() {
            let is_alive = |kind| self.region.pin(id, kind).is_ok();
            if !self.region.heap.object_kind(id).is_some_and(is_alive) {
                // Too many references, which no program has, or memory that somebody wrote over: it names nothing.
                self.write(first + place * size_of::<ObjectId>(), bytemuck::bytes_of(&ObjectId::NOTHING));
            }
        }
    }

    /// Makes it a message of one word.
    #[inline(always)]
    pub fn set_word(&mut self, kind: u8, word: u64) {
        self.empty();
        self.cell.meta = Meta { kind, pins: 0, length: 8 }.pack();
        self.cell.payload[0] = word;
    }

    /// Makes it a message of these bytes.
    ///
    /// # Errors
    /// [`OutOfMemory`]; it is an empty message then.
    #[inline(always)]
    pub fn set_bytes(&mut self, kind: u8, bytes: &[u8]) -> Result<(), OutOfMemory> {
        if bytes.len() <= INLINE_BYTES {
            self.empty();
            self.cell.meta = Meta { kind, pins: 0, length: bytes.len() as u64 }.pack();
            bytemuck::bytes_of_mut(&mut self.cell.payload)[..bytes.len()].copy_from_slice(bytes);
            return Ok(());
        }
        self.allocate(kind, bytes.len(), &[])?;
        self.write(0, bytes);
        Ok(())
    }

    /// Makes it a message of `length` bytes, which are arbitrary at first, followed by the ids in `pins`, each of them a
    /// reference (see [`Region::pin`]) that the message takes over even when this fails.
    ///
    /// # Errors
    /// [`OutOfMemory`]; it is an empty message then.
    pub fn allocate(&mut self, kind: u8, length: usize, pins: &[ObjectId]) -> Result<(), OutOfMemory> {
        self.empty();
        let result = self.take_room(kind, length, pins);
        if result.is_err() {
            pins.iter().for_each(|id| self.region.release(*id, self.me));
            self.disown();
        }
        result
    }

    fn take_room(&mut self, kind: u8, length: usize, pins: &[ObjectId]) -> Result<(), OutOfMemory> {
        let total = (length as u64).saturating_add(size_of_val(pins) as u64);
        let too_large = OutOfMemory { requested: total, available: Meta::MAX_LENGTH };
        let pin_count = u16::try_from(pins.len()).map_err(|_| too_large)?;
        if total > Meta::MAX_LENGTH {
            return Err(too_large);
        }
        let meta = Meta { kind, pins: pin_count, length: total };
        if !meta.is_inline() {
            let refused = |error: OutOfMemory| OutOfMemory { requested: total, ..error };
            let block = self.region.heap.take(self.me, total as usize).map_err(refused)?;
            self.cell.payload[0] = u64::from(block);
        }
        self.cell.meta = meta.pack();
        self.write(length, bytemuck::cast_slice(pins));
        Ok(())
    }

    /// The slot's view of it, for a queue to fill. It has to be empty before.
    pub(crate) fn cell_mut(&mut self) -> &mut Cell {
        &mut self.cell
    }

    /// The slot's view of it.
    pub(crate) fn cell(&self) -> &Cell {
        &self.cell
    }

    /// Forgets what it owned: a queue has it now, or never gave it.
    pub(crate) fn disown(&mut self) {
        self.cell.meta = 0;
    }

    #[inline(always)]
    fn meta(&self) -> Meta {
        Meta::unpack(self.cell.meta)
    }

    /// What the payload means.
    #[inline(always)]
    pub fn kind(&self) -> u8 {
        self.meta().kind
    }

    /// The first word of the payload of a message that is in its slot.
    #[inline(always)]
    pub fn first_word(&self) -> u64 {
        self.cell.payload[0]
    }

    /// Bytes of payload, without the ids.
    #[inline(always)]
    pub fn length(&self) -> usize {
        (self.meta().length as usize).saturating_sub(usize::from(self.meta().pins) * size_of::<ObjectId>())
    }

    /// Where the payload is: [`Message::length`] bytes, valid as long as the message is neither moved nor changed.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        if self.meta().is_inline() {
            return self.cell.payload.as_ptr().cast();
        }
        match self.region.heap.memory(self.cell.payload[0] as u32) {
            Some((memory, size)) if size as u64 >= self.meta().length => memory.as_ptr(),
            // Only memory that somebody wrote over leads here: the message reads as nothing.
            _ => core::ptr::null(),
        }
    }

    /// Copies `bytes` to the payload, from `offset` on, as far as they are inside it.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let meta = self.meta();
        let end = offset.checked_add(bytes.len()).filter(|end| *end as u64 <= meta.length);
        let (Some(_), false) = (end, bytes.is_empty()) else { return };
        if meta.is_inline() {
            bytemuck::bytes_of_mut(&mut self.cell.payload)[offset..offset + bytes.len()].copy_from_slice(bytes);
        } else if let Some((memory, _)) = self.region.heap.memory(self.cell.payload[0] as u32) {
            // SAFETY: the block is ours and holds `meta.length` bytes, and the copy ends within them. The source is
            // no part of a block: those are never handed out as slices.
            unsafe { memory.add(offset).copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        }
    }

    /// Copies the payload's bytes from `offset` on to `bytes`, if there are as many.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let end = offset.checked_add(bytes.len()).filter(|end| *end <= self.length());
        let memory = self.as_ptr();
        if end.is_some() && !memory.is_null() {
            // SAFETY: the payload is ours, and the copy ends within it.
            unsafe { memory.add(offset).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) };
        }
    }

    /// The block, if there is one.
    pub(crate) fn block(&self) -> Option<u32> {
        (!self.meta().is_inline()).then_some(self.cell.payload[0] as u32)
    }

    /// The ids of the objects that it keeps alive. The message stays as it is until the last one was taken.
    fn pins(&self) -> impl Iterator<Item = ObjectId> + use<> {
        let (memory, first) = (self.as_ptr(), self.length());
        let count = if memory.is_null() { 0 } else { usize::from(self.meta().pins) };
        // SAFETY: the ids follow the payload, inside the `meta.length` bytes that are ours.
        (0..count).map(move |pin| unsafe { memory.add(first).cast::<ObjectId>().add(pin).read_unaligned() })
    }

    /// As an entry holds it: meta, and a payload of at most 8 bytes or the index of a block, which stays the caller's
    /// until the entry is a queue's. The message is empty afterwards.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the message is as it was then.
    pub(crate) fn move_to_entry(&mut self) -> Result<(u64, u64), OutOfMemory> {
        let meta = self.meta();
        if meta.is_inline() && !meta.fits_entry() {
            let block = self.region.heap.take(self.me, INLINE_BYTES)?;
            if let Some((memory, _)) = self.region.heap.memory(block) {
                // SAFETY: the block was just taken, and holds that many bytes.
                unsafe { memory.cast().copy_from_nonoverlapping(NonNull::from(&self.cell.payload), 1) };
            }
            self.cell.payload[0] = u64::from(block);
        }
        self.disown();
        Ok((meta.pack(), self.cell.payload[0]))
    }

    /// Becomes the message of an entry that does not have it any more. The block, if there is one, is the caller's.
    pub(crate) fn take_entry(&mut self, meta: u64, payload: u64) {
        self.empty();
        let block = self.read_entry(meta, payload);
        if let Some(block) = block
            && self.meta().is_inline()
        {
            self.region.heap.give_back(self.me, block);
        }
    }

    /// The message of an entry, for a look at it: the entry still has it.
    pub(crate) fn of_entry(region: &'r Region, me: PeerId, meta: u64, payload: u64) -> ManuallyDrop<Message<'r>> {
        let mut message = ManuallyDrop::new(Message::new(region, me));
        message.read_entry(meta, payload);
        message
    }

    /// Makes the cell of what an entry holds, and gives the block's index if there is one.
    fn read_entry(&mut self, meta: u64, payload: u64) -> Option<u32> {
        self.cell.meta = meta;
        self.cell.payload[0] = payload;
        let meta = self.meta();
        if meta.fits_entry() {
            return None;
        }
        let block = payload as u32;
        if let (true, Some((memory, _))) = (meta.is_inline(), self.region.heap.memory(block)) {
            // SAFETY: the block is the entry's, and no block is smaller than a slot's payload.
            self.cell.payload = unsafe { memory.cast().read() };
        }
        Some(block)
    }

    /// Gives the references of the message to `each`; the message has none afterwards.
    fn release_pins(&mut self, each: impl FnMut(ObjectId)) {
        self.pins().for_each(each);
        self.cell.meta = Meta { pins: 0, ..self.meta() }.pack();
    }

    /// Gives back all that it owns.
    #[inline(always)]
    pub(crate) fn empty(&mut self) {
        let meta = self.meta();
        if meta.pins != 0 || !meta.is_inline() {
            self.give_back();
        }
    }

    #[cold]
    fn give_back(&mut self) {
        let (region, me) = (self.region, self.me);
        self.release_pins(|id| region.release(id, me));
        if let Some(block) = self.block() {
            region.heap.give_back(me, block);
        }
        self.disown();
    }
}

impl Drop for Message<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.empty();
    }
}

const _: () = assert!(INLINE_BYTES == INLINE_WORDS * 8);
