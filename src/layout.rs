//! What the bytes mean: the words of a region, their bits, and the structures that are laid over its memory.
//!
//! ```text
//!  region   ┌ header ┬ segment 0 ───────────────────────────┬ segment 1 ──────────┬ …   as it grows
//!           │        │ slab │ slab │ slab │ …               │ slab │ …            │
//!           └────────┴──────┴──────┴────────────────────────┴─────────────────────┘
//!  slab     ┌ descriptor × n ┬ ring header × n (rings only) ┬ block × n ──────────┐
//!           │ 8 bytes each   │ 64 bytes each                │ one size a slab     │
//!           └────────────────┴──────────────────────────────┴─────────────────────┘
//!  a block is one of
//!    payload   the bytes of a message that does not fit into a slot
//!    object    the state of a queue or a lock, or memory for everybody
//!    table     entries of 64 bytes of a queue that keeps an order: key, meta, and the payload's first word or its block
//!    ring      2^k slots of 128 bytes; memory that was once a ring is only ever a ring again
//!
//!  slot      0        8        16                                                128
//!           ┌────────┬────────┬───────────────────────────────────────────────────┐
//!           │ word   │ meta   │ payload: up to 112 bytes, or the index of a block │
//!           └────────┴────────┴───────────────────────────────────────────────────┘
//!
//!  word      63                                          16 15        4    3      2   0
//!           ┌──────────────────────────────────────────────┬───────────┬────────┬───────┐
//!           │ turn: how often the slot came round, + base  │   peer    │ CLOSED │ state │
//!           └──────────────────────────────────────────────┴───────────┴────────┴───────┘
//!  state     FREE 0      peer = 0        may be claimed by the producer of this turn
//!            WRITING 1   peer = owner    a producer writes
//!            READY 2     peer = 0        published; may be claimed by the consumer of this turn
//!            READING 3   peer = owner    a consumer reads; then FREE of the next turn
//!            PEEKING 4   peer = owner    somebody looks at the oldest message; then READY again
//!
//!  meta      63         62            61          60    53 52         37 36              0
//!           ┌──────────┬─────────────┬───────────┬────────┬─────────────┬─────────────────┐
//!           │ COMPLETE │ REDELIVERED │ ENVELOPED │ kind   │ pins        │ length in bytes │
//!           └──────────┴─────────────┴───────────┴────────┴─────────────┴─────────────────┘
//!            COMPLETE: the slot has all of the message, and nobody got it yet. Without it, all but 0 is the
//!            turn that stayed without a message because its producer died, and was counted.
//!
//!  descriptor 63         40 39         16 15        4  3     2      1   0
//!           ┌──────────────┬─────────────┬───────────┬───┬───────┬───────┐
//!           │ generation   │ references  │   peer    │ T │ DIRTY │ state │
//!           └──────────────┴─────────────┴───────────┴───┴───────┴───────┘
//!  state     FREE 0      DIRTY: its pages were written since the kernel last took them back
//!                        T (TAKEN): an envelope whose message its owner got and did not acknowledge
//!            OWNED 1     peer = owner: being written, or being read by the consumer that took it
//!            QUEUED 2    belongs to the slot that names it; a ring belongs to its queue
//!            OBJECT 3    references = handles to it, in interpreters and in messages
//! ```
//!
//! All words are in the machine's own byte order, and all zero bytes are valid everywhere.
//!
//! The file of a region begins with `Header`, behind which the segments follow. What a participant reads there it
//! reads once and checks, for somebody may have written anything over it: offsets, counts and sizes are compared with
//! the file and with each other, and then kept in private memory.
#![forbid(unsafe_code)]

use core::num::NonZeroU16;

use bytemuck::{Pod, Zeroable};

#[cfg(not(loom))]
use crossbeam_utils::CachePadded;

#[cfg(not(loom))]
use crate::event::Bell;
#[cfg(not(loom))]
use crate::journal::Journal;
#[cfg(not(loom))]
use crate::key::KEY_WORDS;
#[cfg(not(loom))]
use crate::sync::AtomicU32;
use crate::sync::{AtomicU64, OwnedWord};

/// What tells a region's file from any other, and this layout from any other. Written before anybody else knows of it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub(crate) struct Identity {
    pub(crate) magic: u64,
    /// A number that no other version has whose words mean something else.
    pub(crate) layout: u64,
    /// The file's length.
    pub(crate) bytes: u64,
    /// Random: tells the region from others.
    pub(crate) number: u64,
    /// Bytes of a page, on which sizes depend.
    pub(crate) page_bytes: u64,
}

#[cfg(not(loom))]
impl Identity {
    pub(crate) const WORDS: usize = size_of::<Identity>() / 8;
    pub(crate) const MAGIC: u64 = u64::from_be_bytes(*b"multigil");
    /// Grows with every change of what words mean that sizes do not show.
    const VERSION: u64 = 1;
    /// A number of the sizes, the places and the byte order of all that lies in a region, by Fowler, Noll and Vo's hash.
    pub(crate) const LAYOUT: u64 = {
        let parts = [
            Self::VERSION,
            size_of::<usize>() as u64,
            size_of::<Header>() as u64,
            size_of::<Slot>() as u64,
            size_of::<RingHeader>() as u64,
            size_of::<Entry>() as u64,
            size_of::<crate::queue::Queue>() as u64,
            size_of::<crate::ordered::LifoQueue>() as u64,
            size_of::<crate::object::SharedRLock>() as u64,
            size_of::<crate::object::SharedSemaphore>() as u64,
            size_of::<crate::object::SharedCondition>() as u64,
            size_of::<crate::object::SharedBarrier>() as u64,
            size_of::<crate::object::SharedMemory>() as u64,
            core::mem::offset_of!(Header, peers) as u64,
            core::mem::offset_of!(Header, slabs) as u64,
        ];
        let mut hash = u64::from_ne_bytes(*b"\x25\x23\x22\x84\xe4\x9c\xf2\xcb"); // differs by byte order
        let mut part = 0;
        while part < parts.len() {
            hash = (hash ^ parts[part]).wrapping_mul(0x0000_0100_0000_01b3);
            part += 1;
        }
        hash
    };
}

/// How many segments a region can have, slabs, and sizes of blocks.
#[cfg(not(loom))]
pub(crate) const MAX_SEGMENTS: usize = 1 << 12;
#[cfg(not(loom))]
pub(crate) const MAX_SLABS: usize = 1 << 14;
#[cfg(not(loom))]
pub(crate) const CLASSES: usize = 2 * 34;

/// The start of a region's file. All zero bytes are valid: a region of nothing.
#[cfg(not(loom))]
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Header {
    pub(crate) identity: CachePadded<[AtomicU64; Identity::WORDS]>,
    /// What those sleep on who wait for several things.
    pub(crate) bell: CachePadded<Bell>,
    pub(crate) journal: CachePadded<Journal>,
    /// When somebody last looked for the dead, in milliseconds of the clock that all share.
    pub(crate) looked: CachePadded<AtomicU64>,
    /// How many objects there are of each kind, in the order of [`ObjectKind::ALL`].
    pub(crate) objects: CachePadded<[AtomicU64; ObjectKind::ALL.len()]>,
    /// The first entry of the list of names: its block, plus one; 0 if there is none.
    pub(crate) names: AtomicU64,
    /// Bytes of large free blocks that stay, of payloads and of rings.
    pub(crate) idle_large: [AtomicU64; 2],
    /// How many slabs and segments there are.
    pub(crate) slab_count: AtomicU64,
    pub(crate) segment_count: AtomicU64,
    /// The number that a participant is given next, if it is free: a hint.
    pub(crate) next_peer: AtomicU64,
    /// Which numbers are taken, one bit each.
    pub(crate) taken: [AtomicU64; PeerId::COUNT / 64],
    pub(crate) peers: [PeerEntry; PeerId::COUNT],
    /// Of payloads and objects, and of rings.
    pub(crate) classes: [[CachePadded<Class>; CLASSES]; 2],
    pub(crate) segments: [SegmentEntry; MAX_SEGMENTS],
    pub(crate) slabs: [SlabEntry; MAX_SLABS],
}

/// Who a participant is, for people.
#[cfg(not(loom))]
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct PeerEntry {
    /// The process.
    pub(crate) process: AtomicU64,
}

/// Where the blocks of one size are.
#[cfg(not(loom))]
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Class {
    /// The slab that was made last, plus one; 0 if there is none. Slabs are linked from there.
    pub(crate) newest: AtomicU64,
    /// The block that was freed last, plus one: a hint.
    pub(crate) hint: AtomicU64,
    /// How many blocks are taken, about.
    pub(crate) taken: AtomicU64,
    /// How many blocks have been written since the kernel took them back, taken or not, about.
    pub(crate) dirty: AtomicU64,
}

/// A piece of the file.
#[cfg(not(loom))]
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct SegmentEntry {
    pub(crate) offset: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Bytes at its start that belong to slabs.
    pub(crate) used: AtomicU64,
}

/// A row of blocks of one size.
#[cfg(not(loom))]
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct SlabEntry {
    /// Its place in the file.
    pub(crate) offset: AtomicU64,
    /// What it is: 31..0 count of blocks, 39..32 class, 40 of rings.
    pub(crate) shape: AtomicU64,
    /// The slab of the same class before it, plus one; 0 if there is none. And above, from bit 32 on, its segment.
    pub(crate) links: AtomicU64,
}

/// A participant: one interpreter of a process. 1 to 4095; 0 in a word means nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerId(NonZeroU16);

impl PeerId {
    /// How many numbers there are, the unused 0 included.
    pub const COUNT: usize = 1 << 12;

    /// The participant with this number, if it can be one.
    pub const fn new(number: u16) -> Option<PeerId> {
        match NonZeroU16::new(number) {
            Some(number) if (number.get() as usize) < Self::COUNT => Some(PeerId(number)),
            _ => None,
        }
    }

    /// Its number.
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

/// Bytes of payload that a slot holds itself.
pub const INLINE_BYTES: usize = 112;
/// The same in words.
pub const INLINE_WORDS: usize = INLINE_BYTES / 8;

/// One place of a ring.
///
/// `meta` and the payload are written by whoever the word names, and the payload is read by nobody else.
#[repr(C, align(128))]
#[derive(Debug, Default)]
pub struct Slot {
    pub(crate) word: AtomicU64,
    pub(crate) meta: AtomicU64,
    pub(crate) payload: [OwnedWord; INLINE_WORDS],
}

/// What a ring is, beside its slots. Written by whoever makes the ring, before it is linked; then only `next`.
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub struct RingHeader {
    /// Position in the queue of the ring's first message.
    pub(crate) base: AtomicU64,
    /// Turn of that message's slot.
    pub(crate) turn: AtomicU64,
    /// The ring that follows, as a [`RingRef`](crate::ring::RingRef), or that none does; see `ring.rs`.
    pub(crate) next: AtomicU64,
}

/// A place in a table: what a queue that keeps an order knows of a message.
///
/// Whoever holds the queue's lock is alone with it.
#[cfg(not(loom))]
#[repr(C, align(64))]
#[derive(Debug, Default)]
pub(crate) struct Entry {
    /// A [`Key`](crate::key::Key).
    pub(crate) key: [OwnedWord; KEY_WORDS],
    pub(crate) meta: OwnedWord,
    /// A payload of at most 8 bytes; otherwise the index of its block.
    pub(crate) payload: OwnedWord,
}

/// A message in a block of its own, as a slot has it; see [`envelope`](crate::envelope).
#[cfg(not(loom))]
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct Envelope {
    /// The envelope behind this one in the list of those that came back.
    pub(crate) next: AtomicU64,
    /// The queue's [`ObjectId`], packed.
    pub(crate) queue: AtomicU64,
    /// Where in the queue the message was.
    pub(crate) position: AtomicU64,
    /// [`Meta`], packed.
    pub(crate) meta: AtomicU64,
    pub(crate) payload: [OwnedWord; INLINE_WORDS],
}

/// What a message is: its kind, how many objects it keeps alive, its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What the payload means; the bindings' business.
    pub kind: u8,
    /// How many objects it refers to. Their ids stand at the end of its block: it has one, however short it is.
    pub pins: u16,
    /// Bytes of payload.
    pub length: u64,
}

impl Meta {
    /// The message is all there. Of a message that was put, this is always set.
    pub const COMPLETE: u64 = 1 << 63;
    /// Somebody got the message before, and died.
    pub const REDELIVERED: u64 = 1 << 62;
    /// The payload is the index of a block that has the message: an `Envelope`.
    pub const ENVELOPED: u64 = 1 << 61;

    /// The longest message: 128 GiB less a byte.
    pub const MAX_LENGTH: u64 = (1 << 37) - 1;

    /// The word, but for the flags.
    pub const fn pack(self) -> u64 {
        (self.kind as u64) << 53 | (self.pins as u64) << 37 | self.length
    }

    /// What [`Meta::pack`] made the word of, whatever its flags.
    pub const fn unpack(word: u64) -> Meta {
        Meta { kind: (word >> 53) as u8, pins: (word >> 37) as u16, length: word & Self::MAX_LENGTH }
    }

    /// How many words of a slot's payload count in a message of that packed meta: the payload itself, or the index of
    /// its block.
    pub(crate) const fn slot_words(word: u64) -> usize {
        let meta = Self::unpack(word);
        if word & Self::ENVELOPED == 0 && meta.is_inline() { (meta.length as usize).div_ceil(8) } else { 1 }
    }

    /// Whether the payload is in the slot itself. What names objects is in a block, which is found when its owner dies.
    pub const fn is_inline(self) -> bool {
        self.length <= INLINE_BYTES as u64 && self.pins == 0
    }

    /// Whether an entry of a table holds it as the index of a block.
    #[cfg(not(loom))]
    pub(crate) const fn is_block_of_entry(self) -> bool {
        self.length > 8 || !self.is_inline()
    }

    /// Bytes of the block that it needs, or of a slot's payload.
    pub const fn room(self) -> u64 {
        if self.pins == 0 {
            return self.length;
        }
        // Ids are words, and a block has more room than a slot.
        let room = self.length.next_multiple_of(8) + 8 * self.pins as u64;
        if room > INLINE_BYTES as u64 { room } else { INLINE_BYTES as u64 + 1 }
    }
}

/// The name of an object, which may cross into any interpreter and leads to nothing once the object is gone.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ObjectId {
    /// The object's block.
    pub index: u32,
    /// How often the block had been taken when the object was made.
    pub generation: u32,
}

#[cfg(not(loom))]
impl ObjectId {
    /// It as a word; no object's is 0, since generations begin with 1.
    pub(crate) fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// What [`ObjectId::pack`] made the word of.
    pub(crate) fn unpack(word: u64) -> Option<ObjectId> {
        (word != 0).then_some(ObjectId { index: word as u32, generation: (word >> 32) as u32 })
    }
}

/// Declares the kinds of objects: a word of four letters, and what several of them are called.
macro_rules! object_kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal, $plural:literal;)*) => {
        /// What kind of object a block holds; the first word of every object.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum ObjectKind {
            $($(#[$doc])* $name = u32::from_be_bytes(*$word),)*
        }

        impl ObjectKind {
            /// All of them.
            pub const ALL: &[ObjectKind] = &[$(ObjectKind::$name),*];

            /// What several objects of the kind are called.
            pub const fn plural(self) -> &'static str {
                match self {
                    $(ObjectKind::$name => $plural,)*
                }
            }
        }
    };
}

object_kinds! {
    /// A [`Queue`](crate::queue::Queue).
    Queue = b"QUEU", "queues";
    /// A [`LifoQueue`](crate::ordered::LifoQueue).
    LifoQueue = b"LIFO", "lifo_queues";
    /// A [`PriorityQueue`](crate::ordered::PriorityQueue).
    PriorityQueue = b"PRIO", "priority_queues";
    /// A [`Lock`](crate::lock::Lock).
    Lock = b"LOCK", "locks";
    /// An [`RLock`](crate::lock::RLock).
    RLock = b"RLCK", "rlocks";
    /// A [`Flag`](crate::flag::Flag).
    Flag = b"FLAG", "events";
    /// A [`Semaphore`](crate::semaphore::Semaphore).
    Semaphore = b"SEMA", "semaphores";
    /// A [`Condition`](crate::condition::Condition).
    Condition = b"COND", "conditions";
    /// A [`Barrier`](crate::barrier::Barrier).
    Barrier = b"BARR", "barriers";
    /// A [`Memory`](crate::memory::Memory).
    Memory = b"MEMO", "memories";
    /// More seats for those who wait at a condition or a barrier; see [`waiters`](crate::waiters).
    Bench = b"BNCH", "benches";
}

/// The start of every object's block.
#[cfg(not(loom))]
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct ObjectHeader {
    pub(crate) kind: AtomicU32,
    pub(crate) flags: AtomicU32,
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Entry>() == 64);
    assert!(size_of::<Slot>() == 128 && core::mem::offset_of!(Slot, payload) == 16);
    assert!(size_of::<RingHeader>() == 64);
    assert!(size_of::<ObjectId>() == 8);
};
