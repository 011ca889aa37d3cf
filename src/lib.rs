//! The engine of multigil: queues and locks in shared memory, for interpreters with a GIL each and for processes.
//!
//! It knows bytes and nothing of Python. `ffi/python` makes Python's types of it.
//!
//! # The rooms, each using only those above it
//!
//! | room | job | `unsafe` |
//! |---|---|---|
//! | `sync` | atomics, fences, the futex; loom's in models | the system call |
//! | [`layout`] | what the bytes mean: every word, bit by bit | no |
//! | [`error`] | what can go wrong, an enum an operation | no |
//! | [`event`] | sleep until a condition may hold, free of charge while nobody sleeps | one borrowed word |
//! | [`lock`] | a lock in a word that names its owner, and a reentrant one | no |
//! | [`key`] | values as bytes in the order of the values | no |
//! | [`flag`], [`semaphore`] | a flag and a number to wait for, and who has taken how much of it | no |
//! | [`waiters`] | who waits, in the order in which they came, each in a seat of its own | no |
//! | [`condition`], [`barrier`] | what is made of seats | no |
//! | [`memory`] | numbers and bytes that everybody sees, and who waits for a change of them | no |
//! | [`ring`] | the lock-free ring, and the chain that lets it grow | no |
//! | `fault` | points where tests stop or kill whoever comes by | no |
//! | `file` | the file that a region is in, and who is alive | system calls |
//! | [`journal`] | several words change together, or none, whoever is killed | no |
//! | `region` | the file as it is mapped here; who takes part | addresses |
//! | `heap` | blocks of any size, each with its owner's name | structures over memory |
//! | [`object`] | handles that keep objects alive, messages that own blocks | handles, copies |
//! | `envelope` | messages in blocks of their own, which come back | no |
//! | [`control`] | what all queues have in common: a bound, a shutdown, tasks | no |
//! | [`queue`] | first in, first out: put, get | no |
//! | [`ordered`] | last in, first out; the least first | no |
//!
//! # A message
//! ```text
//!   put   short: into the slot itself;  long: into a block of the heap, before a slot is claimed
//!         claim a slot (owner in the same word) → write → publish → fence → wake only if somebody sleeps
//!   get   claim the slot → copy what it holds → hand the slot back → wake a producer only if one sleeps
//!         a block belongs to the consumer from then on, who reads straight out of it
//! ```
//!
//! # Guarantees
//! * When `put` has returned, the message is in the queue, and outlives whoever put it.
//! * Each message is got exactly once; the messages of one producer in the order in which it put them.
//! * An operation that fails took nothing and lost nothing.
//! * A participant may be killed at any instruction: nobody waits for the dead, and what they held is given back.
//! * No lock is held while a payload is copied: a slow or stopped participant delays nobody but those who need the
//!   very slot that it is writing.

pub mod barrier;
pub mod condition;
pub mod error;
pub mod event;
#[cfg(any(loom, feature = "faults"))]
pub mod fault;
#[cfg(not(any(loom, feature = "faults")))]
pub(crate) mod fault;
pub mod flag;
pub mod journal;
pub mod key;
pub mod layout;
pub mod lock;
pub mod memory;
pub mod ring;
pub mod semaphore;
pub(crate) mod sync;
pub mod waiters;

#[cfg(not(loom))]
pub mod control;
#[cfg(not(loom))]
pub(crate) mod envelope;
#[cfg(not(loom))]
pub(crate) mod file;
#[cfg(not(loom))]
pub(crate) mod heap;
#[cfg(not(loom))]
pub mod object;
#[cfg(not(loom))]
pub mod ordered;
#[cfg(not(loom))]
pub mod queue;
#[cfg(not(loom))]
pub(crate) mod region;

#[cfg(not(loom))]
pub use heap::Usage;

#[cfg(loom)]
pub use sync::model;
