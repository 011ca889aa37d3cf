//! Where the bytes are: anonymous memory, one preallocated segment and more that are linked as it grows.
//!
//! `unsafe` here: none but the promise that segments may be used from any thread. A segment stays mapped until
//! the region is dropped, so an address inside it never dangles before that.
#![expect(unsafe_code, reason = "raw memory is handed out to the heap")]

use memmap2::{Advice, MmapMut, MmapOptions, MmapRaw, UncheckedAdvice};
use parking_lot::RwLock;

use crate::error::OutOfMemory;
use crate::sync::{AtomicU64, Ordering};

/// Bytes of the first segment: enough for a program that never has more than a few thousand messages waiting.
/// The kernel gives pages only when they are touched.
pub(crate) const FIRST_SEGMENT_BYTES: usize = 16 << 20;
/// Bytes of a later segment, unless one block needs more.
const SEGMENT_BYTES: usize = 64 << 20;
/// From this size on a request is compared with the memory that the machine has left, because the kernel
/// promises more than it can give and ends the program when it is taken at its word.
const CHECKED_BYTES: usize = 32 << 20;

/// The memory of a region. Segments are only ever added.
#[derive(Debug)]
pub(crate) struct Segments {
    all: RwLock<Vec<Segment>>,
}

#[derive(Debug)]
struct Segment {
    memory: MmapRaw,
    used: usize,
}

/// A piece of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: *mut u8,
    pub(crate) length: usize,
}

// SAFETY: a span is an address; whoever follows it answers for that.
unsafe impl Send for Span {}

impl Segments {
    pub(crate) fn new() -> Result<Segments, OutOfMemory> {
        Ok(Segments { all: RwLock::new(vec![Segment::map(FIRST_SEGMENT_BYTES)?]) })
    }

    /// Cuts a piece off, page aligned and all zero. It is never given back, though its pages may be.
    pub(crate) fn cut(&self, bytes: usize) -> Result<Span, OutOfMemory> {
        let bytes = bytes
            .checked_next_multiple_of(page_bytes())
            .ok_or(OutOfMemory { requested: bytes as u64, available: available_memory() })?;
        let mut all = self.all.write();
        let fits = |segment: &&mut Segment| segment.memory.len() - segment.used >= bytes;
        let segment = match all.iter_mut().rev().find(fits) {
            Some(segment) => segment,
            None => {
                let fresh = Segment::map(bytes.max(SEGMENT_BYTES)).or_else(|_| Segment::map(bytes))?;
                all.push(fresh);
                all.last_mut().expect("one was just pushed")
            }
        };
        let start = segment.memory.as_mut_ptr().wrapping_add(segment.used);
        segment.used += bytes;
        Ok(Span { start, length: bytes })
    }

    /// Every segment, for those who look at the whole memory.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let span = |segment: &Segment| Span { start: segment.memory.as_mut_ptr(), length: segment.memory.len() };
        self.all.read().iter().map(span).collect()
    }

    /// Gives the pages that are wholly inside a span back to the kernel; the span reads as zero afterwards.
    ///
    /// # Safety
    /// Nobody uses the span.
    pub(crate) unsafe fn discard(&self, span: Span) {
        let all = self.all.read();
        let inside = |segment: &&Segment| {
            let start = segment.memory.as_mut_ptr() as usize;
            (start..start + segment.memory.len()).contains(&(span.start as usize))
        };
        if let Some(segment) = all.iter().find(inside) {
            // A block of 96 KiB, say, shares a page with the next one where a page has 64 KiB.
            let offset = span.start as usize - segment.memory.as_mut_ptr() as usize;
            let start = offset.next_multiple_of(page_bytes());
            let end = (offset + span.length) / page_bytes() * page_bytes();
            let give_back = || {
                // SAFETY: the caller says that nobody uses these bytes.
                unsafe { segment.memory.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) }
            };
            // The kernel refuses where the program has locked its memory.
            let (before, after) = if start < end && give_back().is_ok() { (start, end) } else { (offset, offset) };
            for (from, to) in [(offset, before), (after, offset + span.length)] {
                // SAFETY: as above; these bytes are some of the span's.
                unsafe { zero(segment.memory.as_mut_ptr().add(from), to - from) };
            }
        }
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

impl Segment {
    fn map(bytes: usize) -> Result<Segment, OutOfMemory> {
        let refused = || OutOfMemory { requested: bytes as u64, available: available_memory() };
        if bytes >= CHECKED_BYTES && bytes as u64 > available_memory() {
            return Err(refused());
        }
        let memory: MmapMut = MmapOptions::new().len(bytes).map_anon().map_err(|_| refused())?;
        let memory = MmapRaw::from(memory);
        if bytes >= SEGMENT_BYTES {
            // Large pages make the first touch several times as fast and later ones quicker. A kernel without says no.
            let _ = memory.advise(Advice::HugePage);
        }
        Ok(Segment { memory, used: 0 })
    }
}

/// Bytes of a page.
pub(crate) fn page_bytes() -> usize {
    // SAFETY: sysconf has no preconditions.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
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
