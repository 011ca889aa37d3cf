//! What can go wrong: one small enum per operation.

use thiserror::Error;

/// There is no memory for a request; nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{requested} bytes were asked for and {available} bytes of memory are available")]
pub struct OutOfMemory {
    /// Bytes that the request would have taken.
    pub requested: u64,
    /// Bytes that the machine, or its limit for this process, could still give.
    pub available: u64,
}

/// Why a region was not made or opened.
#[derive(Debug, Error)]
pub enum RegionError {
    /// There is no memory, or no room where the file is.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The operating system refused.
    #[error(transparent)]
    System(#[from] std::io::Error),
    /// The file belongs to another user.
    #[error("the region belongs to the user of number {0}")]
    Foreign(u32),
    /// The file is none that a region is in.
    #[error("this is no region: {0}")]
    NoRegion(&'static str),
    /// It was made by another version of multigil, or on another kind of machine.
    #[error("the region was made by another version of multigil: its layout is {found:#018x} and not {expected:#018x}")]
    Version {
        /// What the region says of itself.
        found: u64,
        /// What this version says.
        expected: u64,
    },
    /// 4,095 take part already.
    #[error("4095 interpreters take part in the region: no more can")]
    TooManyPeers,
}

/// Why a message was not put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PutError {
    /// The queue held `maxsize` messages for as long as the caller was willing to wait.
    #[error("queue is full")]
    Full,
    /// The queue was shut down.
    #[error("queue is shut down")]
    ShutDown,
    /// A signal arrived or the waiting thread was interrupted; the call may be repeated.
    #[error("wait was interrupted")]
    Interrupted,
    /// The queue could not grow.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The region holds something that no version of multigil wrote.
    #[error("the region holds something that no version of multigil wrote")]
    Corrupt,
}

/// Why no message was got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum GetError {
    /// The queue held nothing for as long as the caller was willing to wait.
    #[error("queue is empty")]
    Empty,
    /// The queue was shut down and has been emptied.
    #[error("queue is shut down")]
    ShutDown,
    /// The next message has so many bytes, more than the caller is prepared for; it stays where it is.
    #[error("the next message has {0} bytes")]
    Large(u64),
    /// Somebody is just looking at the next message, and the caller does not wait; see
    /// [`Queue::settle`](crate::queue::Queue::settle).
    #[error("the next message is being looked at")]
    Peeked,
    /// A signal arrived or the waiting thread was interrupted; the call may be repeated.
    #[error("wait was interrupted")]
    Interrupted,
    /// There is no memory for a copy of the message.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The region holds something that no version of multigil wrote.
    #[error("the region holds something that no version of multigil wrote")]
    Corrupt,
}

/// Why a queue that keeps an order did not do what it should; it is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OrderedError<R, C> {
    /// A [`PutError`] or a [`GetError`].
    #[error("{0}")]
    Refused(R),
    /// The comparison of two messages failed.
    #[error("the comparison of two messages failed")]
    Incomparable(C),
}

/// A thread used a queue from within a comparison of the queue's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("queue is in use by this thread: comparing two of its items used the queue itself")]
pub struct InUse;

/// Why a wait ended without what it waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WaitError {
    /// The deadline passed.
    #[error("timed out")]
    TimedOut,
    /// A signal arrived or the waiting thread was interrupted; the call may be repeated.
    #[error("wait was interrupted")]
    Interrupted,
}

/// The owner of a lock died while it held it. What the lock guards may be half changed; the lock is free now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the owner of the lock died: participant {peer}, thread {thread}")]
pub struct OwnerDied {
    /// The number that it took part by.
    pub peer: u16,
    /// The kernel's id of its thread; 0 if it died before it could write it down.
    pub thread: u32,
}

/// Why a lock was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AcquireError {
    /// The deadline passed.
    #[error("timed out")]
    TimedOut,
    /// A signal arrived or the waiting thread was interrupted; the call may be repeated.
    #[error("wait was interrupted")]
    Interrupted,
    /// Nobody else is told; the next call may take it.
    #[error(transparent)]
    OwnerDied(#[from] OwnerDied),
}

impl From<WaitError> for AcquireError {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::TimedOut => AcquireError::TimedOut,
            WaitError::Interrupted => AcquireError::Interrupted,
        }
    }
}

/// Why a reentrant lock was not taken, but for being somebody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ReacquireError {
    /// It has been taken too often.
    #[error(transparent)]
    TooManyAcquires(#[from] TooManyAcquires),
    /// Nobody else is told; the next call may take it.
    #[error(transparent)]
    OwnerDied(#[from] OwnerDied),
}

/// A lock was released that nobody held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("release unlocked lock")]
pub struct NotLocked;

/// A reentrant lock was released by somebody who does not hold it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("cannot release un-acquired lock")]
pub struct NotOwned;

/// A reentrant lock was taken 4,294,967,295 times by its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("Internal lock count overflowed")]
pub struct TooManyAcquires;

/// A semaphore was released more often than its bound allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("Semaphore released too many times")]
pub struct TooManyReleases;

/// Why somebody did not pass a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BarrierError {
    /// It is broken, or was broken or reset meanwhile.
    #[error("the barrier is broken")]
    Broken,
    /// The deadline passed.
    #[error("timed out")]
    TimedOut,
    /// A signal arrived or the waiting thread was interrupted; the call may be repeated.
    #[error("wait was interrupted")]
    Interrupted,
    /// There was no memory for one more who waits.
    #[error(transparent)]
    OutOfMemory(OutOfMemory),
}

/// Why there is no new memory of some name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NameError {
    /// There is memory of this name already.
    #[error("there is memory of this name already")]
    Exists,
    /// Names have at most 256 bytes.
    #[error("a name has at most 256 bytes")]
    TooLong,
    /// There was none left.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
}

/// `task_done` was called more often than messages were put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("task_done() called too many times")]
pub struct TooManyDone;

/// Why an id does not lead to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AttachError {
    /// The id names an object of another region.
    #[error("the object belongs to another region")]
    OtherRegion,
    /// There is no memory to note the reference in.
    #[error(transparent)]
    OutOfMemory(#[from] OutOfMemory),
    /// The last handle to the object has gone.
    #[error("the object is gone: its last handle was dropped")]
    Gone,
    /// The id leads to something that no object of this kind can be.
    #[error("the id does not name an object of this kind")]
    Corrupt,
}
