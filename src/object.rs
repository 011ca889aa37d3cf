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
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use parking_lot::Mutex;

use crate::barrier::Barrier;
use crate::condition::Condition;
use crate::envelope::AllTaken;
use crate::error::{AttachError, NameError, OutOfMemory, RegionError};
use crate::event::{Bell, Lookout};
use crate::fault::fault;
use crate::file::RegionFile;
use crate::flag::Flag;
use crate::heap::{Heap, Note, Usage};
use crate::layout::{Entry, Envelope, INLINE_BYTES, INLINE_WORDS, Meta, ObjectHeader, ObjectId, ObjectKind, PeerId};
use crate::lock::{Lock, Owner, RLock};
use crate::memory::{Element, Format, Memory};
use crate::ordered::{LifoQueue, Order, OrderedQueue, PriorityQueue};
use crate::queue::Queue;
use crate::region::Space;
use crate::ring::Cell;
use crate::semaphore::Semaphore;
use crate::sync::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering, OwnedWord};
use crate::waiters::{Bench, Benches, Waiters};

/// Shared memory and everything in it, as this process has it.
#[derive(Debug)]
pub struct Region {
    heap: Heap,
    /// Held by whoever puts right what the dead left: the locks on bytes keep other processes out, not other threads.
    recovery: Mutex<()>,
    taken: AllTaken,
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
        self.objects[ObjectKind::ALL.iter().position(|known| *known == kind).expect("ALL has all of them")]
    }
}

/// How a program gets at a region that it did not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// By a name.
    Name(String),
    /// As a descriptor of a process that has it open.
    Process {
        /// The process.
        process: u32,
        /// Its descriptor.
        descriptor: i32,
    },
}

/// The regions of this process, its own one first, which stays as long as it does.
static REGIONS: Mutex<Vec<Opened>> = Mutex::new(Vec::new());

/// A region that a process has open.
#[derive(Debug)]
struct Opened {
    region: &'static Region,
    /// How often it was joined and not parted with.
    users: usize,
}

impl Opened {
    /// The region, which is one of `all` from now on if it is none yet.
    fn add(all: &mut Vec<Opened>, region: Region) -> &'static Region {
        if let Some(known) = Opened::find(all, region.number()) {
            return known; // dropping the other one changes nothing: this one uses the file
        }
        let region: &'static Region = Box::leak(Box::new(region));
        all.push(Opened { region, users: 1 });
        region
    }

    /// The region of that number, with one more user, if there is one.
    fn find(all: &mut [Opened], number: u64) -> Option<&'static Region> {
        let known = all.iter_mut().find(|known| known.region.number() == number)?;
        known.users += 1;
        Some(known.region)
    }
}

impl Region {
    /// A new region without a name.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn new() -> Result<Region, RegionError> {
        Space::create(RegionFile::anonymous()?).map(Region::over)
    }

    /// The region behind a descriptor, which stays the caller's.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn open(descriptor: BorrowedFd<'_>) -> Result<Region, RegionError> {
        Space::open(RegionFile::reopen(descriptor)?).map(Region::over)
    }

    /// The region of that name, which is made if nobody has one.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn named(name: &str) -> Result<Region, RegionError> {
        loop {
            if let Some(region) = Region::find(name)? {
                return Ok(region);
            }
            let space = Space::create(RegionFile::named(name)?)?;
            if space.file().publish()? {
                return Ok(Region::over(space));
            }
        }
    }

    /// A new region of that name; None if there is one that somebody uses.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn create_named(name: &str) -> Result<Option<Region>, RegionError> {
        if RegionFile::find(name)?.is_some() {
            return Ok(None);
        }
        let space = Space::create(RegionFile::named(name)?)?;
        Ok(if space.file().publish()? { Some(Region::over(space)) } else { None })
    }

    /// The region of that name, if there is one that somebody uses.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn find(name: &str) -> Result<Option<Region>, RegionError> {
        match RegionFile::find(name)? {
            Some(file) => Space::open(file).map(Region::over).map(Some),
            None => Ok(None),
        }
    }

    /// The names of this user's regions.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn names() -> Result<Vec<String>, RegionError> {
        let is_used = |name: &String| RegionFile::find(name).is_ok_and(|found| found.is_some());
        Ok(crate::file::names()?.into_iter().filter(is_used).collect())
    }

    fn over(space: Space) -> Region {
        Region { heap: Heap::new(space), recovery: Mutex::default(), taken: AllTaken::default() }
    }

    /// The region that all interpreters of this process share. The first call makes one, unless the process has
    /// [joined](Region::join) one before.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn of_this_process() -> Result<&'static Region, RegionError> {
        let mut regions = REGIONS.lock();
        match regions.first() {
            Some(own) => Ok(own.region),
            None => Ok(Opened::add(&mut regions, Region::new()?)),
        }
    }

    /// The region of that number, which this process opens at that place if it does not have it; its own one from now
    /// on if it has none. It stays until it was [parted](Region::part) with as often.
    ///
    /// # Errors
    /// [`RegionError`], if what is there is another region, too.
    pub fn join(number: u64, location: &Location) -> Result<&'static Region, RegionError> {
        let mut regions = REGIONS.lock();
        if let Some(known) = Opened::find(&mut regions, number) {
            return Ok(known);
        }
        let opened = match location {
            Location::Name(name) => Region::find(name)?,
            Location::Process { process, descriptor } => {
                Some(Region::over(Space::open(RegionFile::of_process(*process, *descriptor)?)?))
            }
        };
        match opened.filter(|region| region.number() == number) {
            Some(region) => Ok(Opened::add(&mut regions, region)),
            None => Err(RegionError::NoRegion("the one that was meant is gone")),
        }
    }

    /// The same for a region that was just opened: this process has each region once.
    pub fn keep(self) -> &'static Region {
        Opened::add(&mut REGIONS.lock(), self)
    }

    /// At the end of the process: takes the region's name away, if it has one and nobody else uses the region. Nobody will
    /// any more.
    pub fn retire(&self) {
        self.heap.space().file().retire();
    }

    /// The end of a use that began with [`Region::join`] or [`Region::keep`]. With the last one the region is closed, unless it is the
    /// process's own.
    ///
    /// # Safety
    /// Nothing that the caller got by that use is used any more: neither the reference nor what was made of it.
    pub unsafe fn part(region: &'static Region) {
        let mut regions = REGIONS.lock();
        let Some(place) = regions.iter().position(|known| core::ptr::eq(known.region, region)) else { return };
        regions[place].users -= 1;
        if regions[place].users == 0 && place != 0 {
            let region = core::ptr::from_ref(regions.swap_remove(place).region).cast_mut();
            // SAFETY: `Opened::add` leaked it, and nobody uses it any more. The list is locked, so nobody opens the file
            // at the same time and finds it used.
            drop(unsafe { Box::from_raw(region) });
        }
    }

    /// The random number that tells this region from others.
    pub fn number(&self) -> u64 {
        self.heap.space().number()
    }

    /// How others get at it.
    pub fn location(&self) -> Location {
        let file = self.heap.space().file();
        file.name().map_or_else(
            || Location::Process { process: std::process::id(), descriptor: file.as_fd().as_raw_fd() },
            Location::Name,
        )
    }

    /// The file that it is in, as this process has it open.
    pub fn file(&self) -> BorrowedFd<'_> {
        self.heap.space().file().as_fd()
    }

    /// Takes part: gives a number to name oneself by. None if 4,095 take part already.
    pub fn register(&self) -> Option<PeerId> {
        let space = self.heap.space();
        let of_the_dead = || {
            // One is enough: what the others left is put right by those who look out, and takes them time. It is done
            // in the name of the dead one, since we have none yet.
            space.peers().filter(|peer| space.is_dead(*peer)).find_map(|dead| {
                if self.recover(dead, dead) {
                    self.heap.count_again();
                }
                space.register()
            })
        };
        space.register().or_else(of_the_dead)
    }

    /// Ends taking part: whatever the peer still owns is given back, but the locks that it has, as a thread may end with
    /// one that another gives back. If it is the last one of this process, it is as if that died.
    pub fn leave(&self, peer: PeerId) {
        if self.heap.space().is_last_of_ours(peer) {
            self.put_right(peer, peer);
        } else {
            self.sweep(peer, peer);
        }
        self.heap.space().leave(peer);
    }

    /// Before a fork: has the child take part.
    ///
    /// # Errors
    /// [`RegionError`].
    pub fn prepare_fork(&self) -> Result<Successor, RegionError> {
        let file = self.heap.space().file().again()?;
        let me = self.heap.space().register_child(&file).ok_or(RegionError::TooManyPeers)?;
        Ok(Successor { file, me })
    }

    /// A reference to an object for the child.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn refer(&self, child: PeerId, id: ObjectId, kind: ObjectKind) -> Result<Reference, AttachError> {
        self.heap.acquire_object(child, id, kind).map(|note| Reference { id, note })
    }

    /// After the fork, in the parent: what was prepared is the child's alone. If there is none, it counts as dead.
    pub fn leave_to_child(&self, child: Successor) {
        self.heap.close_ledger(child.me);
    }

    /// After the fork, in the child: takes part as what was prepared for it. Its name is the successor's.
    ///
    /// # Errors
    /// Whatever the kernel says. The region can't be used then.
    ///
    /// # Safety
    /// The process was just forked and has only this thread.
    pub unsafe fn take_over(&self, successor: Successor) -> std::io::Result<()> {
        // SAFETY: as the caller says.
        unsafe {
            core::ptr::from_ref(&self.recovery).cast_mut().write(Mutex::default());
            self.heap.take_over();
            self.heap.space().take_over(successor.file, successor.me)
        }
    }

    /// Gives a reference back that no handle has become.
    pub fn drop_reference(&self, me: PeerId, reference: Reference) {
        if self.heap.release_object(me, reference.note) {
            self.end(reference.id, me);
        }
    }

    /// The process that a peer belongs or belonged to.
    pub fn process(&self, peer: PeerId) -> u32 {
        self.heap.space().process(peer)
    }

    /// Whether the peer is an interpreter of this process.
    pub fn is_ours(&self, peer: PeerId) -> bool {
        self.heap.space().is_ours(peer)
    }

    /// Looks for participants that have died, unless somebody has just done so, and puts right what they left. Gives how
    /// many it were.
    pub fn look_for_deaths(&self, me: PeerId) -> usize {
        /// Sleepers look every [`LOOKOUT_SLICE`](crate::event::LOOKOUT_SLICE); one of them does it for all.
        const OFTEN: u64 = 20;
        let looked = &self.heap.space().header().looked;
        let (now, last) = (milliseconds(), looked.load(Ordering::Relaxed));
        let is_recent = now.wrapping_sub(last) < OFTEN;
        if is_recent || looked.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return 0;
        }
        self.recover_dead(me)
    }

    /// The same at once. Of very many, the rest is left to the next call.
    pub fn recover_dead(&self, me: PeerId) -> usize {
        /// Each costs a walk over all blocks. More do not die together, unless somebody wrote over the numbers.
        const MOST: usize = 256;
        let space = self.heap.space();
        let dead: Vec<PeerId> = space.peers().filter(|peer| space.is_dead(*peer)).take(MOST).collect();
        let count = dead.iter().filter(|dead| self.recover(**dead, me)).count();
        if count > 0 {
            self.heap.count_again(); // once for all of them
        }
        count
    }

    /// Puts right what a participant left that is dead for certain; false if it is not, or somebody else is at it.
    ///
    /// Each step may be made again: whoever does this may be killed too, and the next one begins anew.
    pub fn recover(&self, dead: PeerId, me: PeerId) -> bool {
        let _one_thread = self.recovery.lock();
        let space = self.heap.space();
        if !space.is_dead(dead) || !space.is_taken(dead) || !space.file().claim(dead).unwrap_or(false) {
            return false;
        }
        // Between the look and the lock, others may have done it and the number be another's, who has ended too.
        if space.is_taken(dead) {
            self.put_right(dead, me);
            space.clear(dead);
        }
        space.file().forget(dead);
        true
    }

    fn put_right(&self, dead: PeerId, me: PeerId) {
        if self.process(dead) == 0 {
            return; // the number never was anybody's: somebody wrote over the bits, maybe all of them
        }
        // First of all what the journal's log holds, if the dead had its lock: its changes may be half made.
        self.heap.transact(me, |_| None::<()>);
        for id in self.heap.objects() {
            fault!(RecoverObject);
            if let Some(kind) = self.heap.object_kind(id) {
                self.put_right_object(id, kind, dead, me);
            }
        }
        self.sweep(dead, me);
        self.bell().ring();
    }

    /// Frees what a participant owned that has ended; what it had not acknowledged goes back to its queue.
    fn sweep(&self, ended: PeerId, me: PeerId) {
        if ended == me {
            self.heap.close_ledger(me); // its blocks are found as all others
        }
        self.heap.sweep(ended, me, |envelope| Queue::give_back_taken(self, me, envelope), |id| self.end(id, me));
    }

    fn put_right_object(&self, id: ObjectId, kind: ObjectKind, dead: PeerId, me: PeerId) {
        let visit = Visit { region: self, id, dead, me };
        match kind {
            ObjectKind::Queue => visit.see(|queue: &Queue| queue.recover(self, dead, me)),
            ObjectKind::LifoQueue => visit.see(|queue: &LifoQueue| queue.recover(self, dead)),
            ObjectKind::PriorityQueue => visit.see(|queue: &PriorityQueue| queue.recover(self, dead)),
            ObjectKind::Lock => visit.see(|lock: &SharedLock| lock.recover(dead)),
            ObjectKind::RLock => visit.see(|lock: &SharedRLock| lock.recover(dead)),
            ObjectKind::Flag => visit.see(|flag: &SharedFlag| flag.recover()),
            ObjectKind::Semaphore => visit.see(|semaphore: &SharedSemaphore| semaphore.recover(dead)),
            ObjectKind::Condition => visit.see(|condition: &SharedCondition| condition.recover(self, dead)),
            ObjectKind::Barrier => visit.see(|barrier: &SharedBarrier| barrier.recover(self, dead, self.bell())),
            ObjectKind::Memory => visit.see(|memory: &SharedMemory| memory.recover()),
            ObjectKind::Bench => {}
        }
    }

    /// What the region holds.
    pub fn statistics(&self) -> Statistics {
        Statistics {
            memory: self.heap.usage(),
            objects: core::array::from_fn(|kind| self.heap.counted(ObjectKind::ALL[kind]).load(Ordering::Relaxed)),
            peers: self.heap.space().peers().count() as u32,
        }
    }

    /// The address and length of each segment that is mapped. They stay as they are for the region's life; more may
    /// follow.
    pub fn segments(&self) -> Vec<(*const u8, usize)> {
        self.heap.space().spans().iter().map(|span| (span.start.as_ptr().cast_const(), span.length)).collect()
    }

    /// Makes a queue; `maxsize` as in [`set_maxsize`](crate::control::AnyQueue::set_maxsize).
    ///
    /// # Errors
    /// [`OutOfMemory`].
    pub fn create_queue(&self, me: PeerId, maxsize: i64) -> Result<Handle<'_, Queue>, OutOfMemory> {
        let queue = self.create::<Queue>(me, 0)?;
        queue.initialize(&self.heap, me, queue.id, maxsize)?; // it is an empty one without
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
        let memory = self.create_memory(me, format, length)?;
        self.give_name(me, MEMORY, name, (memory.id(), ObjectKind::Memory), None)?;
        Ok(memory)
    }

    /// A handle to the memory of that name, if there is one.
    pub fn open_memory(&self, me: PeerId, name: &str) -> Option<Handle<'_, SharedMemory>> {
        self.open_named(me, MEMORY, name)
    }

    /// Takes a name away; false if there is none like it. The memory lives until its last handle has gone.
    pub fn unlink_memory(&self, me: PeerId, name: &str) -> bool {
        self.take_name(me, MEMORY, name)
    }

    /// Gives an object a name among those of one kind, whatever the caller takes for one, and perhaps another object that
    /// travels with it. Both live as long as there is the name. The caller has handles to them.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn give_name(
        &self,
        me: PeerId,
        kind: u32,
        name: &str,
        object: (ObjectId, ObjectKind),
        companion: Option<(ObjectId, ObjectKind)>,
    ) -> Result<(), NameError> {
        if name.len() > NAME_BYTES {
            return Err(NameError::TooLong);
        }
        let block = self.heap.take(me, size_of::<Name>())?;
        let (memory, _) = self.heap.memory(block).expect("it was just taken");
        // SAFETY: the block is ours and as large, and any bytes are valid.
        let entry = unsafe { memory.cast::<Name>().as_ref() };
        let mut bytes = [0; NAME_BYTES];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        let words: [u64; NAME_BYTES / 8] = bytemuck::cast(bytes);
        entry.bytes.iter().zip(words).for_each(|(to, from)| to.write(from));
        entry.about.store(u64::from(kind) << 32 | name.len() as u64, Ordering::Relaxed);
        entry.object.store(object.0.pack(), Ordering::Relaxed);
        entry.companion.store(companion.map_or(0, |(id, _)| id.pack()), Ordering::Relaxed);
        let first = &self.heap.space().header().names;
        let named = self.heap.transact(me, |transaction| {
            if self.of_name(kind, name).is_some() {
                return None;
            }
            for (id, kind) in core::iter::once(object).chain(companion) {
                self.heap.add_reference(transaction, id, kind).ok()?;
            }
            entry.next.store(first.load(Ordering::Acquire), Ordering::Release); // ours alone still
            transaction.set(first, u64::from(block) + 1);
            self.heap.hand_over_with(transaction, block, None)
        });
        if named.is_none() {
            self.heap.give_back(me, block);
        }
        named.ok_or(NameError::Exists)
    }

    /// A handle to the object of that name, if there is one and it is such an object.
    pub fn open_named<T: SharedState>(&self, me: PeerId, kind: u32, name: &str) -> Option<Handle<'_, T>> {
        let mut gone = None;
        loop {
            let (id, _) = self.find_name(me, kind, name).filter(|(id, _)| gone != Some(*id))?;
            match self.attach(id, me) {
                Ok(handle) => return Some(handle),
                Err(AttachError::Gone) => gone = Some(id), // it was unlinked in between, or somebody wrote over it
                Err(_) => return None,
            }
        }
    }

    /// The object of that name and what travels with it, if there is one. Either may be gone a moment later.
    pub fn find_name(&self, me: PeerId, kind: u32, name: &str) -> Option<(ObjectId, Option<ObjectId>)> {
        let mut found = None;
        // With the lock, since entries come and go; nothing is changed.
        self.heap.transact(me, |_| {
            found = self.of_name(kind, name);
            None::<()>
        });
        found
    }

    /// Takes a name away; false if there is none like it. The object lives until its last handle has gone.
    pub fn take_name(&self, me: PeerId, kind: u32, name: &str) -> bool {
        let taken = self.heap.transact(me, |transaction| {
            let (link, entry) = self.links().find(|(_, entry)| entry.is(kind, name))?;
            let block = u32::try_from(link.load(Ordering::Relaxed).checked_sub(1)?).ok()?;
            transaction.set(link, entry.next.load(Ordering::Relaxed));
            self.heap.hand_over_with(transaction, block, Some(me))?;
            let (object, companion) = entry.ids().map_or((None, None), |(object, other)| (Some(object), other));
            let mut last = |id: &ObjectId| self.heap.drop_reference(transaction, *id, me);
            Some((block, object.filter(&mut last), companion.filter(&mut last)))
        });
        let Some((block, object, companion)) = taken else { return false };
        self.heap.give_back(me, block);
        object.into_iter().chain(companion).for_each(|id| self.end(id, me));
        true
    }

    /// The names that objects have, with what the caller took for their kind.
    pub fn object_names(&self, me: PeerId) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        self.heap.transact(me, |_| {
            found.extend(self.links().filter_map(|(_, entry)| entry.name()));
            None::<()>
        });
        found
    }

    /// What has that name. Whoever asks holds the journal's lock.
    fn of_name(&self, kind: u32, name: &str) -> Option<(ObjectId, Option<ObjectId>)> {
        let mut named = self.links().filter(|(_, entry)| entry.is(kind, name)).filter_map(|(_, entry)| entry.ids());
        // An entry is a reference. Without an object there is none, since somebody wrote over one or the other.
        let is_alive = |(object, _): &(ObjectId, _)| self.heap.is_alive(*object);
        named.find(is_alive)
    }

    /// The list of names: each entry with the word that leads to it. Whoever walks along it holds the journal's lock.
    fn links(&self) -> impl Iterator<Item = (&AtomicU64, &Name)> {
        /// Nobody has as many.
        const MOST: usize = 1 << 20;
        let mut link = &self.heap.space().header().names;
        // Should the list lead back into itself, because somebody wrote over it, then to one that is remembered: ever
        // later ones are, until one of them is in the circle (Richard Brent, 1980).
        let (mut steps, mut remembered) = (0_u32, None);
        let next = move || {
            let entry =
                self.entry(link).filter(|entry| !remembered.is_some_and(|other| core::ptr::eq(other, *entry)))?;
            steps += 1;
            if steps.is_power_of_two() {
                remembered = Some(entry);
            }
            Some((core::mem::replace(&mut link, &entry.next), entry))
        };
        core::iter::from_fn(next).take(MOST)
    }

    /// The entry that a word leads to.
    fn entry(&self, link: &AtomicU64) -> Option<&Name> {
        let block = u32::try_from(link.load(Ordering::Acquire).checked_sub(1)?).ok()?;
        let (memory, size) = self.heap.memory(block)?;
        // SAFETY: the block is large enough, any bytes are valid, and it stays an entry while the journal's lock is held.
        (size >= size_of::<Name>()).then(|| unsafe { memory.cast::<Name>().as_ref() })
    }

    /// Makes an object with so many bytes behind its state.
    fn create<T: SharedState>(&self, me: PeerId, bytes: usize) -> Result<Handle<'_, T>, OutOfMemory> {
        let (id, note) = self.heap.create_object(me, T::KIND, size_of::<T>().saturating_add(bytes))?;
        Ok(self.handle(id, me, note).expect("it was just made"))
    }

    /// A new handle to the object of that id.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn attach<T: SharedState>(&self, id: ObjectId, me: PeerId) -> Result<Handle<'_, T>, AttachError> {
        let note = self.heap.acquire_object(me, id, T::KIND)?;
        self.handle(id, me, note).ok_or(AttachError::Corrupt)
    }

    fn handle<T: SharedState>(&self, id: ObjectId, me: PeerId, note: Note) -> Option<Handle<'_, T>> {
        // SAFETY: the caller took a reference, which the handle keeps, to an object of this kind.
        let state = unsafe { self.heap.object(id) }?;
        Some(Handle { region: self, me, id, note, state })
    }

    /// Ends an object that has no references any more, and whatever ends with it.
    ///
    /// An object's messages may hold the last references to others, and so on: not by recursion, which a long row
    /// of queues in queues would overflow the stack with. Those that wait for their turn name who ends them, so that
    /// somebody goes on when that one dies.
    fn end(&self, id: ObjectId, me: PeerId) {
        let mut ended = vec![id];
        while let Some(id) = ended.pop() {
            let kind = self.heap.object_kind(id);
            let mut last = |id| ended.push(id);
            match kind {
                Some(ObjectKind::Queue) => {
                    // SAFETY: it is of that kind, and ours alone until we give back its block.
                    if let Some(queue) = unsafe { self.last::<Queue>(id) } {
                        queue.destroy(self, id, me, |message| message.give_back(&mut last));
                    }
                }
                Some(ObjectKind::LifoQueue) => {
                    // SAFETY: as above.
                    if let Some(queue) = unsafe { self.last::<LifoQueue>(id) } {
                        queue.destroy(self, me, |message| message.give_back(&mut last));
                    }
                }
                Some(ObjectKind::PriorityQueue) => {
                    // SAFETY: as above.
                    if let Some(queue) = unsafe { self.last::<PriorityQueue>(id) } {
                        queue.destroy(self, me, |message| message.give_back(&mut last));
                    }
                }
                Some(ObjectKind::Condition) => {
                    // SAFETY: as above.
                    if let Some(object) = unsafe { self.last::<SharedCondition>(id) } {
                        self.end_benches(object.waiters(), me);
                    }
                }
                Some(ObjectKind::Barrier) => {
                    // SAFETY: as above.
                    if let Some(object) = unsafe { self.last::<SharedBarrier>(id) } {
                        self.end_benches(object.waiters(), me);
                    }
                }
                _ => {}
            }
            self.heap.end_object(me, id, kind);
        }
    }

    /// Frees the benches of an object that ends: the last one first, since each leads to the next one.
    fn end_benches(&self, waiters: &Waiters, me: PeerId) {
        let names: Vec<u64> = waiters.benches(self).collect();
        for name in names.into_iter().rev() {
            self.heap.end_object(me, bench_id(name), Some(ObjectKind::Bench));
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

    /// The envelope in a block; None if there is no block of that index.
    pub(crate) fn envelope(&self, block: u32) -> Option<&Envelope> {
        let (memory, bytes) = self.heap.memory(block)?;
        // SAFETY: blocks are aligned to two cache lines, any bytes are a valid envelope, and all that changes in it is
        // atomic. Whoever asks owns the block, or has the list or the slot that names it.
        (bytes >= size_of::<Envelope>()).then(|| unsafe { memory.cast().as_ref() })
    }

    /// What this process's threads got and did not acknowledge.
    pub(crate) fn taken(&self) -> &AllTaken {
        &self.taken
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
        &self.heap.space().header().bell
    }
}

/// A bench is an object with one reference, which is the link that leads to it.
impl Benches for Region {
    fn bench(&self, name: u64) -> Option<&Bench> {
        let id = bench_id(name);
        if !self.heap.is_object(id) || self.heap.object_kind(id) != Some(ObjectKind::Bench) {
            return None;
        }
        // SAFETY: whoever asks holds a reference to the object that the bench belongs to, so it stays.
        unsafe { self.heap.object::<Shared<Bench>>(id).map(|bench| &bench.as_ref().state) }
    }

    fn make(&self, me: PeerId) -> Result<u64, OutOfMemory> {
        let id = self.heap.take_for_object(me, ObjectKind::Bench, size_of::<Shared<Bench>>())?;
        Ok(BENCH | u64::from(id.generation) << 32 | u64::from(id.index))
    }

    fn link(&self, me: PeerId, link: &AtomicU64, name: u64) -> bool {
        self.heap.make_object(me, bench_id(name), ObjectKind::Bench, link, 0, name)
    }

    fn discard(&self, me: PeerId, name: u64) {
        self.heap.give_back(me, bench_id(name).index);
    }
}

/// Set in every bench's name, which is never 0 so.
const BENCH: u64 = 1 << 63;

fn bench_id(name: u64) -> ObjectId {
    ObjectId { index: name as u32, generation: ((name & !BENCH) >> 32) as u32 }
}

/// The most bytes of an object's name.
const NAME_BYTES: usize = 256;
/// What the engine's own names of memory are, as a kind: none of those that callers use.
const MEMORY: u32 = u32::MAX;

/// An entry in the list of names. It changes only while nobody else knows it, but for `next`.
#[repr(C)]
#[derive(Debug)]
struct Name {
    /// The block of the next entry, plus one; 0 if there is none.
    next: AtomicU64,
    /// The object's id, of which this is a reference.
    object: AtomicU64,
    /// The same of what travels with it; 0 if there is nothing.
    companion: AtomicU64,
    /// The kind above, the name's length below.
    about: AtomicU64,
    bytes: [OwnedWord; NAME_BYTES / 8],
}

impl Name {
    fn is(&self, kind: u32, name: &str) -> bool {
        self.name().is_some_and(|found| found == (kind, name.to_owned()))
    }

    fn name(&self) -> Option<(u32, String)> {
        let about = self.about.load(Ordering::Relaxed);
        let words: [u64; NAME_BYTES / 8] = core::array::from_fn(|word| self.bytes[word].read());
        let bytes: [u8; NAME_BYTES] = bytemuck::cast(words);
        let name = bytes.get(..about as u32 as usize)?;
        Some(((about >> 32) as u32, String::from_utf8_lossy(name).into_owned()))
    }

    fn ids(&self) -> Option<(ObjectId, Option<ObjectId>)> {
        let object = ObjectId::unpack(self.object.load(Ordering::Relaxed))?;
        Some((object, ObjectId::unpack(self.companion.load(Ordering::Relaxed))))
    }
}

/// Milliseconds of the clock that all processes share.
fn milliseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the live structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// A look at an object of which the dead may have left something half done.
struct Visit<'r> {
    region: &'r Region,
    id: ObjectId,
    dead: PeerId,
    me: PeerId,
}

impl Visit<'_> {
    /// Lets `look` see the object, which stays meanwhile: for the reference that we take, or because nobody refers to it
    /// any more and the dead was about to end it.
    fn see<T: SharedState, R>(&self, look: impl FnOnce(&T) -> R) {
        let Visit { region, id, dead, me } = *self;
        if let Ok(object) = region.attach::<T>(id, me) {
            look(&object);
        } else if region.heap.is_ended_by(id, dead) {
            // SAFETY: it is of that kind, and whoever recovers the dead is the only one to go on with it.
            if let Some(object) = unsafe { region.last::<T>(id) } {
                look(object);
            }
        }
    }
}

/// A peer that looks for the dead of its region while it waits.
#[derive(Clone, Copy, Debug)]
pub struct Watch<'r> {
    /// The region.
    pub region: &'r Region,
    /// Who looks.
    pub me: PeerId,
}

impl Lookout for Watch<'_> {
    fn look_out(&self) {
        self.region.look_for_deaths(self.me);
    }
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
    note: Note,
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

impl<'r, T: SharedState> Handle<'r, T> {
    /// In a forked child: is a handle of its own from now on, instead of a copy of the parent's.
    pub fn take_over(&mut self, me: PeerId, reference: Reference) {
        if reference.id == self.id {
            (self.me, self.note) = (me, reference.note);
        }
    }
}

/// What a child that is about to be forked will take part in a region as.
#[derive(Debug)]
pub struct Successor {
    /// Opened for the child, so that the locks are its own.
    file: RegionFile,
    me: PeerId,
}

impl Successor {
    /// Its name.
    pub fn me(&self) -> PeerId {
        self.me
    }
}

/// A reference that is to become a handle, of a child that is about to be forked.
#[derive(Debug)]
pub struct Reference {
    id: ObjectId,
    note: Note,
}

impl Reference {
    /// What it refers to.
    pub fn id(&self) -> ObjectId {
        self.id
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
        if self.region.heap.release_object(self.me, self.note) {
            self.region.end(self.id, self.me);
        }
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

    /// The region that it is in.
    pub fn region(&self) -> &'r Region {
        self.region
    }

    /// Lets a queue give it a message of up to `bytes` bytes.
    pub fn prepare(&mut self, bytes: u64) {
        self.most = bytes;
    }

    pub(crate) fn prepared_for(&self) -> u64 {
        self.most
    }

    /// How much [`Message::copy`] may copy to it as it is: [`Meta::room`] of a message.
    pub(crate) fn room(&self) -> u64 {
        self.meta().room().max(INLINE_BYTES as u64)
    }

    /// Makes it a copy of a message that is a queue's and stays there as long as this takes: with a reference of its own
    /// for each of that one's. There is room for it.
    pub(crate) fn copy(&mut self, cell: &Cell) {
        let meta = Meta::unpack(cell.meta);
        if meta.is_inline() {
            self.empty();
            self.cell = *cell;
            return;
        }
        let (heap, theirs) = (&self.region.heap, cell.payload[0] as u32);
        let memory = |index: u32| heap.memory(index).filter(|(_, size)| *size as u64 >= meta.room());
        if let Some(mine) = self.block()
            && let (Some((from, _)), Some((to, _))) = (memory(theirs), memory(mine))
        {
            // SAFETY: ours holds as many bytes, nobody else uses it, and the other is not written while it is a queue's. Where
            // somebody wrote over what tells where blocks are, they may overlap.
            unsafe { from.copy_to(to, meta.length as usize) };
            self.cell.meta = cell.meta;
            let pins: Vec<_> = heap.pinned(theirs).filter_map(|id| Some((id, heap.object_kind(id)?))).collect();
            heap.pin(self.me, mine, &pins);
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

    /// Makes it a message of `length` bytes, which are arbitrary at first, with a reference to each of the objects in
    /// `pins`, which are alive.
    ///
    /// # Errors
    /// [`OutOfMemory`]; it is an empty message then.
    pub fn allocate(&mut self, kind: u8, length: usize, pins: &[(ObjectId, ObjectKind)]) -> Result<(), OutOfMemory> {
        self.empty();
        self.disown();
        let too_large = OutOfMemory { requested: length as u64, available: Meta::MAX_LENGTH };
        let pin_count = u16::try_from(pins.len()).map_err(|_| too_large)?;
        if length as u64 > Meta::MAX_LENGTH {
            return Err(too_large);
        }
        let meta = Meta { kind, pins: pin_count, length: length as u64 };
        if !meta.is_inline() {
            let refused = |error: OutOfMemory| OutOfMemory { requested: meta.room(), ..error };
            let block = self.region.heap.take(self.me, meta.room() as usize).map_err(refused)?;
            self.cell.payload[0] = u64::from(block);
            self.region.heap.pin(self.me, block, pins);
        }
        self.cell.meta = meta.pack();
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

    /// Whether somebody got it before and did not acknowledge it.
    #[inline(always)]
    pub fn is_redelivered(&self) -> bool {
        self.cell.meta & Meta::REDELIVERED != 0
    }

    /// The first word of the payload of a message that is in its slot.
    #[inline(always)]
    pub fn first_word(&self) -> u64 {
        self.cell.payload[0]
    }

    /// Bytes of payload.
    #[inline(always)]
    pub fn length(&self) -> usize {
        self.meta().length as usize
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

    /// The objects that it has a reference to, in their order.
    pub fn pins(&self) -> Vec<(ObjectId, ObjectKind)> {
        let Some(block) = self.block() else { return Vec::new() };
        let heap = &self.region.heap;
        heap.pinned(block).filter_map(|id| Some((id, heap.object_kind(id)?))).collect()
    }

    /// Copies `bytes` to the payload, from `offset` on, as far as they are inside it.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        let meta = self.meta();
        let end = offset.checked_add(bytes.len()).filter(|end| *end as u64 <= meta.length);
        let (Some(_), false) = (end, bytes.is_empty()) else { return };
        if meta.is_inline() {
            bytemuck::bytes_of_mut(&mut self.cell.payload)[offset..offset + bytes.len()].copy_from_slice(bytes);
        } else if let Some((memory, size)) = self.region.heap.memory(self.cell.payload[0] as u32)
            && size as u64 >= meta.length
        {
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

    /// As an entry holds it: meta, and a payload of at most 8 bytes or the index of a block, which stays the caller's
    /// until the entry is a queue's. The message is empty afterwards.
    ///
    /// # Errors
    /// [`OutOfMemory`]; the message is as it was then.
    pub(crate) fn move_to_entry(&mut self) -> Result<(u64, u64), OutOfMemory> {
        let meta = self.meta();
        if meta.is_inline() && meta.is_block_of_entry() {
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
        if !meta.is_block_of_entry() {
            return None;
        }
        let block = payload as u32;
        if let (true, Some((memory, _))) = (meta.is_inline(), self.region.heap.memory(block)) {
            // SAFETY: the block is the entry's, and no block is smaller than a slot's payload.
            self.cell.payload = unsafe { memory.cast().read() };
        }
        Some(block)
    }

    /// Gives back all that it owns.
    #[inline(always)]
    pub(crate) fn empty(&mut self) {
        if !self.meta().is_inline() {
            let (region, me) = (self.region, self.me);
            self.give_back(|id| region.end(id, me));
        }
    }

    /// The same; `last` is told of the objects that end with it.
    #[cold]
    pub(crate) fn give_back(&mut self, last: impl FnMut(ObjectId)) {
        if let Some(block) = self.block() {
            // Most hold none: no transaction, for which all would wait for each other.
            if self.region.heap.is_pinning(block) {
                self.region.heap.unpin(self.me, block, last);
            }
            self.region.heap.give_back(self.me, block);
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
