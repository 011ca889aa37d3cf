//! What the children of a storm write down, in memory that survives each of them.

use std::fmt::{self, Write};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// The most children at a time.
pub(crate) const SLOTS: usize = 16;
/// The most producers of a round, each with a stream of messages of its own.
pub(crate) const STREAMS: usize = 4;
/// The most messages of a stream in a round.
pub(crate) const MESSAGES: u64 = 1 << 15;

/// What has become of a message.
pub(crate) const BEGUN: u8 = 1;
pub(crate) const PUT: u8 = 2;
pub(crate) const GOT: u8 = 4;
pub(crate) const DONE: u8 = 8;

/// Shared with all children.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Book {
    /// Whoever reads this ends.
    pub(crate) stop: AtomicBool,
    /// What the first child that found a fault says.
    has_failed: AtomicBool,
    failure: [AtomicU8; 2000],
    pub(crate) slots: [Slot; SLOTS],
    /// When participants were killed, by their numbers.
    pub(crate) killed: [AtomicU64; 4096],
    pub(crate) counts: Counts,
    streams: [Stream; STREAMS],
}

/// What all children of a round count together.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Messages without bytes, which have no number: begun, put, got.
    pub(crate) empty: [AtomicU64; 3],
    /// Messages that came after a later one of their producer.
    pub(crate) late: AtomicU64,
    /// Messages that were delivered again, and marked so.
    pub(crate) redelivered: AtomicU64,
    /// Times that somebody was told that a lock's owner had died.
    pub(crate) told: AtomicU64,
    /// Times that somebody found what a lock guards half changed.
    pub(crate) mended: AtomicU64,
    /// Steps of whatever is counted up under a lock.
    pub(crate) steps: AtomicU64,
    /// The longest time from a death until somebody who waited for a lock of the dead was told, in nanoseconds.
    pub(crate) longest_until_told: AtomicU64,
    /// The longest wait, in nanoseconds.
    pub(crate) longest_wait: AtomicU64,
}

#[repr(C)]
#[derive(Debug, Default)]
struct Stream {
    /// The number of the next message.
    next: AtomicU64,
    messages: Messages,
}

#[derive(Debug)]
struct Messages([AtomicU8; MESSAGES as usize]);

impl Default for Messages {
    fn default() -> Messages {
        Messages([const { AtomicU8::new(0) }; MESSAGES as usize])
    }
}

/// What a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Doing {
    Nothing,
    Putting,
    Getting,
    Acknowledging,
    Acquiring,
    Inside,
    Waiting,
}

impl Doing {
    const ALL: [Doing; 7] = [
        Doing::Nothing,
        Doing::Putting,
        Doing::Getting,
        Doing::Acknowledging,
        Doing::Acquiring,
        Doing::Inside,
        Doing::Waiting,
    ];
}

/// What is known of a child. The parent clears it for the next one.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) process: AtomicI32,
    pub(crate) peer: AtomicU32,
    doing: AtomicU32,
    /// Since when, in nanoseconds.
    since: AtomicU64,
    point: [AtomicU8; 32],
    /// It stops itself, or is about to, or has just gone on.
    pub(crate) stops: AtomicBool,
}

impl Slot {
    pub(crate) fn clear(&self) {
        self.process.store(0, Ordering::SeqCst);
        self.peer.store(0, Ordering::SeqCst);
        self.begin(Doing::Nothing);
        self.point[0].store(0, Ordering::SeqCst);
        self.stops.store(false, Ordering::SeqCst);
    }

    pub(crate) fn begin(&self, doing: Doing) {
        self.since.store(nanoseconds(), Ordering::SeqCst);
        self.doing.store(doing as u32, Ordering::SeqCst);
    }

    pub(crate) fn doing(&self) -> Doing {
        Doing::ALL[self.doing.load(Ordering::SeqCst) as usize]
    }

    /// How long it has done that.
    pub(crate) fn time(&self) -> Duration {
        Duration::from_nanos(nanoseconds().saturating_sub(self.since.load(Ordering::SeqCst)))
    }

    /// Notes the point where it ends.
    pub(crate) fn note_point(&self, point: &str) {
        let bytes = point.bytes().take(self.point.len() - 1).chain([0]);
        self.point.iter().zip(bytes).for_each(|(to, from)| to.store(from, Ordering::SeqCst));
    }

    /// The point where it ended, if it was at one.
    pub(crate) fn point(&self) -> Option<String> {
        text(&self.point)
    }
}

fn text(bytes: &[AtomicU8]) -> Option<String> {
    let bytes: Vec<u8> = bytes.iter().map(|byte| byte.load(Ordering::SeqCst)).take_while(|byte| *byte != 0).collect();
    (!bytes.is_empty()).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

impl Book {
    pub(crate) fn new() -> &'static Book {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, which is never unmapped; all zero bytes are a valid book.
        unsafe {
            let memory = libc::mmap(core::ptr::null_mut(), size_of::<Book>(), access, kind, -1, 0);
            assert_ne!(memory, libc::MAP_FAILED);
            NonNull::new_unchecked(memory).cast().as_ref()
        }
    }

    /// For the next round.
    pub(crate) fn clear(&self) {
        self.stop.store(false, Ordering::SeqCst);
        self.slots.iter().for_each(Slot::clear);
        for stream in &self.streams {
            let used = stream.next.swap(0, Ordering::SeqCst);
            stream.messages.0.iter().take(used as usize).for_each(|message| message.store(0, Ordering::SeqCst));
        }
        let Counts { empty: [begun, put, got], late, redelivered, told, mended, steps, .. } = &self.counts;
        for count in [begun, put, got, late, redelivered, told, mended, steps] {
            count.store(0, Ordering::SeqCst);
        }
    }

    pub(crate) fn stops(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// The next message of a stream is begun: its number, if the round may have one more.
    pub(crate) fn begin(&self, stream: usize) -> Option<u64> {
        let next = &self.streams[stream].next;
        let number = next.load(Ordering::SeqCst);
        if number == MESSAGES {
            return None;
        }
        self.note(stream, number, BEGUN);
        next.store(number + 1, Ordering::SeqCst);
        Some(number)
    }

    /// Notes what has become of a message, and gives what was known of it.
    pub(crate) fn note(&self, stream: usize, number: u64, what: u8) -> u8 {
        self.streams[stream].messages.0[number as usize].fetch_or(what, Ordering::SeqCst)
    }

    /// What has become of all messages that were begun.
    pub(crate) fn messages(&self) -> impl Iterator<Item = u8> {
        self.streams.iter().flat_map(|stream| {
            let begun = stream.next.load(Ordering::SeqCst);
            stream.messages.0.iter().take(begun as usize).map(|message| message.load(Ordering::SeqCst))
        })
    }

    /// Writes down why a child ends all. The first one counts.
    pub(crate) fn fail(&self, reason: &dyn fmt::Display) {
        if !self.has_failed.swap(true, Ordering::SeqCst) {
            let mut text = String::new();
            let _ = write!(text, "{reason}");
            self.failure.iter().zip(text.bytes()).for_each(|(to, from)| to.store(from, Ordering::SeqCst));
        }
    }

    pub(crate) fn failure(&self) -> Option<String> {
        text(&self.failure)
    }
}

/// The clock that all processes share.
pub(crate) fn nanoseconds() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills the live structure.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
