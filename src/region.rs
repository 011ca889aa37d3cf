//! Where the bytes are: a region's file as it is mapped here, its header and the segments that are added as it grows.
//!
//! Each process maps the header when it opens the region, and a segment when it first needs it, wherever there is room:
//! addresses differ between processes, and none is ever stored. What a segment is stands in the header, and is
//! checked and kept in private memory when it is mapped.
//!
//! `unsafe` here: mapping, and references into what is mapped. It stays mapped until the region is dropped, and the file
//! can't shrink (see `file.rs`), so an address inside it never dangles before that; the header is only ever changed by
//! atomics, and any bytes are valid in it.
#![expect(unsafe_code, reason = "raw memory is handed out to the heap")]

use core::ptr::NonNull;
use std::os::fd::AsFd;

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};
use parking_lot::Mutex;

use crate::error::{OutOfMemory, RegionError};
use crate::file::RegionFile;
use crate::journal::{Place, Transaction};
use crate::layout::{Header, Identity, MAX_SEGMENTS, PeerId, SegmentEntry};
use crate::sync::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// Bytes of the first segment: enough for a program that never has more than a few thousand messages waiting.
/// The kernel gives pages only when they are touched.
const FIRST_SEGMENT_BYTES: usize = 16 << 20;
/// Bytes of a later segment, unless one block needs more.
const SEGMENT_BYTES: usize = 64 << 20;
/// From this size on a request is compared with the memory that the machine has left, because the kernel
/// promises more than it can give and ends the program when it is taken at its word.
const CHECKED_BYTES: usize = 32 << 20;

/// A region's file, mapped.
#[derive(Debug)]
pub(crate) struct Space {
    header: MmapRaw,
    identity: Identity,
    file: RegionFile,
    /// What is mapped of the segments, by their numbers. Null, or made by `Box::into_raw` and there as long as this.
    segments: Box<[AtomicPtr<Segment>]>,
    /// No segment from this number on is mapped.
    mapped_count: AtomicUsize,
    /// Held by the thread of this process that changes words together.
    transacting: Mutex<()>,
    /// Participants of this process; whose locks the kernel does not tell from ours.
    ours: Mutex<Vec<PeerId>>,
}

/// A segment that is mapped.
#[derive(Debug)]
struct Segment {
    memory: MmapRaw,
    offset: u64,
}

/// A piece of the region's memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: NonNull<u8>,
    pub(crate) length: usize,
}

/// A piece of a segment that becomes a slab if the transaction is committed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

impl Space {
    /// A new region in this file, which is still empty.
    pub(crate) fn create(file: RegionFile) -> Result<Space, RegionError> {
        let mut number = [0; 8];
        // SAFETY: the kernel fills at most the eight bytes that it is given. Should it fail, then ids of other regions
        // are told apart less surely, which costs an error message and no memory safety.
        unsafe { libc::getrandom(number.as_mut_ptr().cast(), number.len(), 0) };
        let identity = Identity {
            magic: Identity::MAGIC,
            layout: Identity::LAYOUT,
            bytes: file.bytes()?,
            number: u64::from_ne_bytes(number),
            page_bytes: page_bytes() as u64,
        };
        if identity.bytes < header_bytes() {
            return Err(out_of_memory(header_bytes()).into());
        }
        file.commit(0, header_bytes())?;
        let space = Space::map(file, identity)?;
        let words: [u64; Identity::WORDS] = bytemuck::cast(identity);
        space.header().identity.iter().zip(words).for_each(|(word, value)| word.store(value, Ordering::Release));
        Ok(space)
    }

    /// The region in this file.
    pub(crate) fn open(file: RegionFile) -> Result<Space, RegionError> {
        let bytes = file.bytes()?;
        if bytes < header_bytes() {
            return Err(RegionError::NoRegion("the file is too short"));
        }
        let unknown = Identity { magic: 0, layout: 0, bytes, number: 0, page_bytes: 0 };
        let mut space = Space::map(file, unknown)?;
        let words: [u64; Identity::WORDS] =
            core::array::from_fn(|word| space.header().identity[word].load(Ordering::Acquire));
        let identity: Identity = bytemuck::cast(words);
        if identity.magic != Identity::MAGIC {
            return Err(RegionError::NoRegion("it does not begin as one"));
        }
        if identity.layout != Identity::LAYOUT || identity.page_bytes != page_bytes() as u64 {
            return Err(RegionError::Version { found: identity.layout, expected: Identity::LAYOUT });
        }
        if identity.bytes != bytes {
            return Err(RegionError::NoRegion("the file's length has changed"));
        }
        space.identity = identity;
        Ok(space)
    }

    fn map(file: RegionFile, identity: Identity) -> Result<Space, RegionError> {
        let header = MmapOptions::new().len(header_bytes() as usize).map_raw(file.file())?;
        let segments = (0..MAX_SEGMENTS).map(|_| AtomicPtr::default()).collect();
        Ok(Space {
            header,
            identity,
            file,
            segments,
            mapped_count: AtomicUsize::new(0),
            transacting: Mutex::default(),
            ours: Mutex::default(),
        })
    }

    #[inline(always)]
    pub(crate) fn header(&self) -> &Header {
        // SAFETY: so many bytes are mapped, page aligned; the rest the room's first lines say.
        unsafe { &*self.header.as_ptr().cast::<Header>() }
    }

    pub(crate) fn number(&self) -> u64 {
        self.identity.number
    }

    pub(crate) fn file(&self) -> &RegionFile {
        &self.file
    }

    /// Changes words all together or not at all; see [`journal`](crate::journal).
    pub(crate) fn transact<T>(
        &self,
        me: PeerId,
        body: impl FnOnce(&mut Transaction<'_, Space>) -> Option<T>,
    ) -> Option<T> {
        let _one_thread = self.transacting.lock();
        self.header().journal.transact(self, me, body)
    }

    /// Cuts a piece off, page aligned and all zero, whose first `committed` bytes have memory. It is never given back,
    /// though its pages may be.
    pub(crate) fn cut(
        &self,
        transaction: &mut Transaction<'_, Space>,
        bytes: usize,
        committed: usize,
    ) -> Result<Cut, OutOfMemory> {
        let refused = || out_of_memory(bytes as u64);
        let bytes = bytes.checked_next_multiple_of(page_bytes()).ok_or_else(refused)? as u64;
        if bytes as usize >= CHECKED_BYTES && bytes > available_memory() {
            return Err(refused());
        }
        let header = self.header();
        let count = header.segment_count.load(Ordering::Acquire).min(MAX_SEGMENTS as u64);
        let mut end = header_bytes();
        let mut fitting = None;
        for (number, entry) in header.segments.iter().take(count as usize).enumerate() {
            let (offset, length) = self.shape(entry).ok_or_else(refused)?;
            let used = entry.used.load(Ordering::Relaxed).min(length).next_multiple_of(page_bytes() as u64);
            end = end.max(offset + length);
            if length - used >= bytes {
                fitting = Some((number as u64, entry, offset, used));
            }
        }
        let (segment, entry, offset, used) = match fitting {
            Some(fitting) => fitting,
            None => {
                let usual = if count == 0 { FIRST_SEGMENT_BYTES } else { SEGMENT_BYTES } as u64;
                let room = self.identity.bytes.saturating_sub(end) / page_bytes() as u64 * page_bytes() as u64;
                let length = bytes.max(usual).min(room);
                let entry = header.segments.get(count as usize).filter(|_| length >= bytes).ok_or_else(refused)?;
                transaction.set(&entry.offset, end);
                transaction.set(&entry.bytes, length);
                transaction.set(&header.segment_count, count + 1);
                (count, entry, end, 0)
            }
        };
        self.commit(offset + used, committed as u64)?;
        transaction.set(&entry.used, used + bytes);
        Ok(Cut { segment, offset: offset + used })
    }

    /// Sees to it that so many bytes from there on have memory.
    pub(crate) fn commit(&self, offset: u64, bytes: u64) -> Result<(), OutOfMemory> {
        self.file.commit(offset, bytes).map_err(|_| OutOfMemory { requested: bytes, available: self.room() })
    }

    /// Bytes that the file can still be given.
    fn room(&self) -> u64 {
        // SAFETY: all zero bytes are a valid structure, and the kernel fills it.
        let left = unsafe {
            let mut about: libc::statvfs = core::mem::zeroed();
            let descriptor = std::os::fd::AsRawFd::as_raw_fd(&self.file.as_fd());
            (libc::fstatvfs(descriptor, &raw mut about) == 0).then(|| about.f_bavail as u64 * about.f_frsize as u64)
        };
        left.filter(|_| self.file.is_named()).map_or_else(available_memory, |left| left.min(available_memory()))
    }

    /// Where a segment is, if it is inside the file.
    fn shape(&self, entry: &SegmentEntry) -> Option<(u64, u64)> {
        let (offset, bytes) = (entry.offset.load(Ordering::Acquire), entry.bytes.load(Ordering::Relaxed));
        let pages = |number: u64| number % page_bytes() as u64 == 0;
        let fits = offset >= header_bytes() && offset.checked_add(bytes)? <= self.identity.bytes;
        (fits && bytes > 0 && pages(offset) && pages(bytes)).then_some((offset, bytes))
    }

    /// A piece of a segment, if that has it.
    pub(crate) fn span(&self, cut: Cut, bytes: usize) -> Option<Span> {
        let segment = self.segment(usize::try_from(cut.segment).ok()?)?;
        let from = usize::try_from(cut.offset.checked_sub(segment.offset)?).ok()?;
        if from.checked_add(bytes)? > segment.memory.len() || from % page_bytes() != 0 {
            return None;
        }
        // SAFETY: it is inside the mapping.
        let start = unsafe { NonNull::new_unchecked(segment.memory.as_mut_ptr().add(from)) };
        Some(Span { start, length: bytes })
    }

    /// The segment of that number, mapped.
    fn segment(&self, number: usize) -> Option<&Segment> {
        let place = self.segments.get(number)?;
        // SAFETY: null or a segment, which is there as long as we are.
        if let Some(segment) = unsafe { place.load(Ordering::Acquire).as_ref() } {
            return Some(segment);
        }
        let (offset, bytes) = self.shape(self.header().segments.get(number)?)?;
        let memory = MmapOptions::new().offset(offset).len(bytes as usize).map_raw(self.file.file()).ok()?;
        if bytes as usize >= SEGMENT_BYTES {
            // Large pages make the first touch several times as fast and later ones quicker. A kernel without says no.
            let _ = memory.advise(Advice::HugePage);
        }
        let fresh = Box::into_raw(Box::new(Segment { memory, offset }));
        self.mapped_count.fetch_max(number + 1, Ordering::AcqRel);
        let null = core::ptr::null_mut();
        // Release publishes the segment. Failure: somebody was quicker.
        match place.compare_exchange(null, fresh, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: it is there as long as we are.
            Ok(_) => Some(unsafe { &*fresh }),
            Err(other) => {
                // SAFETY: nobody else has seen ours, and the other one is there as long as we are.
                unsafe {
                    drop(Box::from_raw(fresh));
                    Some(&*other)
                }
            }
        }
    }

    /// The segments that are mapped, of which there may be more by now.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.mapped().map(|segment| Span { start: segment.start(), length: segment.memory.len() }).collect()
    }

    /// Bytes of all segments, mapped here or not.
    pub(crate) fn reserved(&self) -> u64 {
        let count = self.header().segment_count.load(Ordering::Relaxed).min(MAX_SEGMENTS as u64) as usize;
        let lengths = self.header().segments.iter().take(count).map(|entry| entry.bytes.load(Ordering::Relaxed));
        lengths.fold(0, u64::saturating_add)
    }

    fn mapped(&self) -> impl Iterator<Item = &Segment> {
        // How many the region has may have been written over.
        let count = self.mapped_count.load(Ordering::Acquire);
        // SAFETY: null or a segment, which is there as long as we are.
        self.segments[..count].iter().filter_map(|place| unsafe { place.load(Ordering::Acquire).as_ref() })
    }

    /// Where in the file an address is.
    pub(crate) fn offset_of(&self, address: *const u8) -> Option<u64> {
        let inside =
            |start: *const u8, bytes: usize| (address as usize).checked_sub(start as usize).filter(|at| *at < bytes);
        if let Some(at) = inside(self.header.as_ptr(), self.header.len()) {
            return Some(at as u64);
        }
        self.mapped().find_map(|segment| {
            inside(segment.start().as_ptr(), segment.memory.len()).map(|at| segment.offset + at as u64)
        })
    }

    /// Gives the pages that are wholly inside a span back to the kernel; the span reads as zero afterwards.
    ///
    /// # Safety
    /// Nobody uses the span.
    pub(crate) unsafe fn discard(&self, span: Span) {
        let inside = |segment: &&Segment| {
            let start = segment.start().as_ptr() as usize;
            (start..start + segment.memory.len()).contains(&(span.start.as_ptr() as usize))
        };
        if let Some(segment) = self.mapped().find(inside) {
            // A block of 96 KiB, say, shares a page with the next one where a page has 64 KiB.
            let offset = span.start.as_ptr() as usize - segment.start().as_ptr() as usize;
            let start = offset.next_multiple_of(page_bytes());
            let end = (offset + span.length) / page_bytes() * page_bytes();
            let give_back = || {
                // SAFETY: the caller says that nobody uses these bytes.
                unsafe { segment.memory.unchecked_advise_range(UncheckedAdvice::Remove, start, end - start) }
            };
            // The kernel refuses where the program has locked its memory.
            let (before, after) = if start < end && give_back().is_ok() { (start, end) } else { (offset, offset) };
            for (from, to) in [(offset, before), (after, offset + span.length)] {
                // SAFETY: as above; these bytes are some of the span's.
                unsafe { zero(segment.memory.as_mut_ptr().add(from), to - from) };
            }
        }
    }

    // --- who takes part ------------------------------------------------------------------------------------------

    /// Gives a number that nobody has; None if all 4,095 are taken.
    ///
    /// They are given in turn, so that what an ended participant left behind, such as a lock, says as long as can be
    /// that its owner has ended.
    pub(crate) fn register(&self) -> Option<PeerId> {
        self.register_by(&self.file, &mut self.ours.lock())
    }

    /// The same for a child that is about to be forked, which will have the file in place of ours.
    pub(crate) fn register_child(&self, file: &RegionFile) -> Option<PeerId> {
        self.register_by(file, &mut self.ours.lock().clone())
    }

    fn register_by(&self, file: &RegionFile, ours: &mut Vec<PeerId>) -> Option<PeerId> {
        let header = self.header();
        let next = header.next_peer.load(Ordering::Relaxed) as usize % PeerId::COUNT; // Relaxed: a hint
        for number in (next..PeerId::COUNT).chain(0..next) {
            let Some(peer) = PeerId::new(number as u16) else { continue };
            // First the lock on its byte. Whoever sees the bit without the lock knows that the peer is dead.
            if self.is_taken(peer) || ours.contains(&peer) || !file.claim(peer).unwrap_or(false) {
                continue;
            }
            if self.is_taken(peer) {
                file.forget(peer); // it was just registered, and has died, before we had the lock
                continue;
            }
            ours.push(peer);
            header.peers[number].process.store(u64::from(std::process::id()), Ordering::Relaxed);
            let (bits, bit) = taken_bit(header, peer);
            bits.fetch_or(bit, Ordering::AcqRel); // Release publishes the entry
            header.next_peer.store(number as u64 + 1, Ordering::Relaxed);
            return Some(peer);
        }
        None
    }

    /// In a forked child, which has been registered as `me`: has the file that was opened for it in place of its parent's.
    ///
    /// A mapping counts as a use of the file as it was opened, so that the parent's locks would outlive the parent.
    ///
    /// # Safety
    /// The process was just forked and has only this thread.
    pub(crate) unsafe fn take_over(&self, file: RegionFile, me: PeerId) -> std::io::Result<()> {
        let remap = |memory: &MmapRaw, offset: u64| {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_FIXED);
            let (start, descriptor) = (memory.as_mut_ptr().cast(), std::os::fd::AsRawFd::as_raw_fd(file.file()));
            // SAFETY: the mapping is replaced by one of the same bytes in one step.
            let mapped = unsafe { libc::mmap(start, memory.len(), protection, flags, descriptor, offset as i64) };
            if mapped == libc::MAP_FAILED { Err(std::io::Error::last_os_error()) } else { Ok(()) }
        };
        remap(&self.header, 0)?;
        self.mapped().try_for_each(|segment| remap(&segment.memory, segment.offset))?;
        self.file.take_over(file)?;
        self.header().peers[usize::from(me.get())].process.store(u64::from(std::process::id()), Ordering::Relaxed);
        // SAFETY: nobody else is here. Whoever had it locked has stayed with the parent, and may have been changing it.
        unsafe {
            core::ptr::from_ref(&self.ours).cast_mut().write(Mutex::new(vec![me]));
            core::ptr::from_ref(&self.transacting).cast_mut().write(Mutex::default());
        }
        Ok(())
    }

    /// Gives a number back. Its owner holds nothing any more.
    pub(crate) fn leave(&self, peer: PeerId) {
        let mut ours = self.ours.lock();
        let (bits, bit) = taken_bit(self.header(), peer);
        bits.fetch_and(!bit, Ordering::Release); // what it did comes before what the next one of the number does
        ours.retain(|other| *other != peer);
        self.file.forget(peer);
    }

    /// Frees the number of a dead peer, whose byte the caller has the lock of.
    pub(crate) fn clear(&self, dead: PeerId) {
        let (bits, bit) = taken_bit(self.header(), dead);
        bits.fetch_and(!bit, Ordering::Release); // what was put right comes before what the next one does
    }

    /// Whether the number is taken, by the living or the dead.
    pub(crate) fn is_taken(&self, peer: PeerId) -> bool {
        let (bits, bit) = taken_bit(self.header(), peer);
        bits.load(Ordering::Acquire) & bit != 0
    }

    /// Whether nobody of that name takes part any more.
    pub(crate) fn is_dead(&self, peer: PeerId) -> bool {
        !self.is_taken(peer) || (!self.is_ours(peer) && !self.file.is_claimed_elsewhere(peer))
    }

    /// Whether this process has the peer.
    pub(crate) fn is_ours(&self, peer: PeerId) -> bool {
        self.ours.lock().contains(&peer)
    }

    /// Whether this process has that peer, and no other one.
    pub(crate) fn is_last_of_ours(&self, peer: PeerId) -> bool {
        *self.ours.lock() == [peer]
    }

    /// The numbers that are taken, by the living or the dead.
    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerId> {
        self.header().taken.iter().enumerate().flat_map(|(word, bits)| {
            let bits = bits.load(Ordering::Acquire);
            let is_set = move |bit: &usize| bits & 1 << bit != 0;
            (0..64).filter(is_set).filter_map(move |bit| PeerId::new((word * 64 + bit) as u16))
        })
    }

    /// The process that a peer belongs or belonged to.
    pub(crate) fn process(&self, peer: PeerId) -> u32 {
        self.header().peers[usize::from(peer.get())].process.load(Ordering::Relaxed) as u32
    }
}

fn taken_bit(header: &Header, peer: PeerId) -> (&AtomicU64, u64) {
    (&header.taken[usize::from(peer.get()) / 64], 1 << (peer.get() % 64))
}

impl Place for Space {
    fn offset(&self, word: &AtomicU64) -> Option<u64> {
        self.offset_of(core::ptr::from_ref(word).cast())
    }

    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        if offset % 8 != 0 {
            return None;
        }
        let start = if offset < header_bytes() {
            self.header.as_mut_ptr().wrapping_add(offset as usize)
        } else {
            let count = self.header().segment_count.load(Ordering::Acquire).min(MAX_SEGMENTS as u64) as usize;
            let inside =
                |segment: &&Segment| (segment.offset..segment.offset + segment.memory.len() as u64).contains(&offset);
            // Of words that this process has just changed, what is mapped tells for certain.
            let known = self.mapped().find(inside);
            let segment = known.or_else(|| (0..count).filter_map(|number| self.segment(number)).find(inside))?;
            segment.memory.as_mut_ptr().wrapping_add((offset - segment.offset) as usize)
        };
        // SAFETY: it is inside of what is mapped, and aligned.
        Some(unsafe { AtomicU64::from_ptr(start.cast()) })
    }

    fn cannot_hold(&self, peer: PeerId) -> bool {
        self.is_ours(peer) || self.is_dead(peer)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        for segment in &mut self.segments {
            let segment = core::mem::take(segment.get_mut());
            if !segment.is_null() {
                // SAFETY: `segment` made it by `Box::into_raw`, and nobody can look it up any more.
                drop(unsafe { Box::from_raw(segment) });
            }
        }
    }
}

impl Segment {
    fn start(&self) -> NonNull<u8> {
        NonNull::new(self.memory.as_mut_ptr()).expect("a mapping is not at address zero")
    }
}

/// Makes words zero: one by one, because whoever is late may still look at the words of a ring.
///
/// # Safety
/// The words are the caller's, aligned and inside a segment.
unsafe fn zero(start: *mut u8, bytes: usize) {
    for place in (0..bytes).step_by(size_of::<AtomicU64>()) {
        // SAFETY: as the caller says.
        unsafe { AtomicU64::from_ptr(start.add(place).cast()) }.store(0, Ordering::Relaxed);
    }
}

/// Bytes of the header, in whole pages.
fn header_bytes() -> u64 {
    size_of::<Header>().next_multiple_of(page_bytes()) as u64
}

fn out_of_memory(requested: u64) -> OutOfMemory {
    OutOfMemory { requested, available: available_memory() }
}

/// Bytes of a page.
pub(crate) fn page_bytes() -> usize {
    static BYTES: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    // SAFETY: sysconf has no preconditions.
    *BYTES.get_or_init(|| usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096))
}
/// Bytes that this process can still get: what the machine has, its control group allows, and its own limits.
pub(crate) fn available_memory() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let number = |path: &str| read(path).and_then(|text| text.trim().parse::<u64>().ok());
    let machine = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
    });
    let group = number("/sys/fs/cgroup/memory.max")
        .zip(number("/sys/fs/cgroup/memory.current"))
        .map(|(limit, used)| limit.saturating_sub(used));
    [machine, group, address_space_left()].into_iter().flatten().min().unwrap_or(u64::MAX)
}

/// What `RLIMIT_AS` leaves, if it is set.
fn address_space_left() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a live rlimit for the kernel to fill.
    let failed = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) } != 0;
    if failed || limit.rlim_cur == libc::RLIM_INFINITY {
        return None;
    }
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').next()?.parse::<u64>().ok()?;
    Some(limit.rlim_cur.saturating_sub(pages * page_bytes() as u64))
}
