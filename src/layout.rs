//! What the bytes mean: the words of a region, their bits, and the structures that are laid over its memory.
//!
//! ```text
//!  region   ┌ segment 0 ────────────────────────────────────┬ segment 1 ──────────┬ …   linked as it grows
//!           │ slab │ slab │ slab │ …                        │ slab │ …            │
//!           └──────┴──────┴──────┴──────────────────────────┴─────────────────────┘
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
//!  meta      63      56 55            40 39                                             0
//!           ┌──────────┬────────────────┬────────────────────────────────────────────────┐
//!           │ kind     │ pins           │ length in bytes                                │
//!           └──────────┴────────────────┴────────────────────────────────────────────────┘
//!
//!  descriptor 63         40 39         16 15        4  3     2      1   0
//!           ┌──────────────┬─────────────┬───────────┬───┬───────┬───────┐
//!           │ generation   │ references  │   peer    │ 0 │ DIRTY │ state │
//!           └──────────────┴─────────────┴───────────┴───┴───────┴───────┘
//!  state     FREE 0      DIRTY: its pages were written since the kernel last took them back
//!            OWNED 1     peer = owner: being written, or being read by the consumer that took it
//!            QUEUED 2    belongs to the slot that names it; a ring belongs to its queue
//!            OBJECT 3    references = handles to it, in interpreters and in messages
//! ```
//!
//! All words are in the machine's own byte order, and all zero bytes are valid everywhere.
#![forbid(unsafe_code)]

use core::num::NonZeroU16;

use bytemuck::{Pod, Zeroable};

#[cfg(not(loom))]
use crate::key::KEY_WORDS;
#[cfg(not(loom))]
use crate::sync::AtomicU32;
use crate::sync::{AtomicU64, OwnedWord};

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

/// What a message is: its kind, how many objects it keeps alive, its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// What the payload means; the bindings' business.
    pub kind: u8,
    /// How many ids of objects ([`ObjectId`]) stand at the payload's end, each of them a reference.
    pub pins: u16,
    /// Bytes of payload, the ids included.
    pub length: u64,
}

impl Meta {
    /// The longest message: 1 TiB less a byte.
    pub const MAX_LENGTH: u64 = (1 << 40) - 1;

    /// The word.
    pub const fn pack(self) -> u64 {
        (self.kind as u64) << 56 | (self.pins as u64) << 40 | self.length
    }

    /// What [`Meta::pack`] made the word of.
    pub const fn unpack(word: u64) -> Meta {
        Meta { kind: (word >> 56) as u8, pins: (word >> 40) as u16, length: word & Self::MAX_LENGTH }
    }

    /// How many words of a slot's payload count: the payload itself, or the index of its block.
    pub(crate) const fn slot_words(self) -> usize {
        if self.is_inline() { (self.length as usize).div_ceil(8) } else { 1 }
    }

    /// Whether the payload is in an entry itself.
    #[cfg(not(loom))]
    pub(crate) const fn fits_entry(self) -> bool {
        self.is_inline() && self.length <= 8
    }

    /// Whether the payload is in the slot itself.
    pub const fn is_inline(self) -> bool {
        self.length <= INLINE_BYTES as u64
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
    /// Leads to no object.
    pub(crate) const NOTHING: ObjectId = ObjectId { index: u32::MAX, generation: 0 };
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
