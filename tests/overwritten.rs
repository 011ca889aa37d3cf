//! Somebody writes anything over a region: no operation crashes, hangs or panics, and all that comes of it is an error.
//!
//! Each input is a copy of a region that is in use, with some bytes of it changed, by a generator that starts from a
//! number. The numbers of `corpus.txt` once led to a crash or a hang, and are tried each time. `MULTIGIL_INPUTS` says
//! how many others are tried.

#![expect(unsafe_code, reason = "words of others' objects are looked up")]

mod support;

use core::time::Duration;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::time::Instant;

use multigil::barrier::Arrival;
use multigil::control::AnyQueue;
use multigil::event::{Parker, Patience};
use multigil::layout::{ObjectId, ObjectKind, PeerId};
use multigil::lock::{Lock, Owner, RLock};
use multigil::memory::Format;
use multigil::object::{
    Message, Region, SharedBarrier, SharedCondition, SharedFlag, SharedLock, SharedMemory, SharedRLock, SharedSemaphore,
};
use multigil::ordered::{LifoQueue, PriorityQueue};
use multigil::queue::Queue;

use crate::support::limit;
use crate::support::photograph::Photograph;

/// Numbers that are the same each time.
struct Dice(u64);

impl Dice {
    /// Sebastiano Vigna's splitmix64.
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.roll() % limit as u64) as usize
    }
}

/// A region with objects of all kinds, in use.
struct Model {
    photograph: Photograph,
    queue: ObjectId,
    lifo: ObjectId,
    priority: ObjectId,
    lock: ObjectId,
    rlock: ObjectId,
    flag: ObjectId,
    semaphore: ObjectId,
    condition: ObjectId,
    barrier: ObjectId,
    memory: ObjectId,
}
