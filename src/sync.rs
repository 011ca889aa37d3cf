//! The one door to atomics, fences and the futex: `core` and the kernel in normal builds, loom's in models.
//!
//! Every other room takes its concurrency types from here (clippy's `disallowed-types` sees to it), so that
//! `RUSTFLAGS="--cfg loom" cargo test --test loom` explores the very code that runs in production.
//!
//! `unsafe` here: the futex system call, which reads one aligned word that outlives the call, and in models the
//! cells behind [`OwnedWord`], whose accesses loom checks.
#![expect(unsafe_code, reason = "the futex system call; loom's cells")]
#![expect(clippy::disallowed_types, reason = "this is the facade that the lint points to")]

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{Ordering, fence};
#[cfg(not(loom))]
use core::time::Duration;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{Ordering, fence};

#[cfg(loom)]
pub(crate) use self::model::{AtomicU32, AtomicU64};

// Aliases and not `pub use`, which clippy's lint would see through.
#[cfg(not(loom))]
pub(crate) type AtomicBool = core::sync::atomic::AtomicBool;
#[cfg(not(loom))]
pub(crate) type AtomicU8 = core::sync::atomic::AtomicU8;
#[cfg(not(loom))]
pub(crate) type AtomicU16 = core::sync::atomic::AtomicU16;
#[cfg(not(loom))]
pub(crate) type AtomicU32 = core::sync::atomic::AtomicU32;
#[cfg(not(loom))]
pub(crate) type AtomicU64 = core::sync::atomic::AtomicU64;
#[cfg(not(loom))]
pub(crate) type AtomicUsize = core::sync::atomic::AtomicUsize;
#[cfg(not(loom))]
pub(crate) type AtomicPtr<T> = core::sync::atomic::AtomicPtr<T>;

/// A part of the protocol by its name: `essential!(Commit: Ordering::Release)` is `Ordering::Release`.
///
/// Models can take each part out (see [`model`]): `tests/loom` has a model that fails without it.
#[cfg(not(loom))]
macro_rules! essential {
    ($part:ident: $code:expr) => {
        $code
    };
}
#[cfg(loom)]
macro_rules! essential {
    ($part:ident: $code:expr) => {
        if $crate::sync::model::is_missing($crate::sync::model::Part::$part) {
            $crate::sync::model::Absent::absent()
        } else {
            $code
        }
    };
}
pub(crate) use essential;

/// A full barrier for a thread whose last store was an atomic read-modify-write.
///
/// Ordering a store before a later load of *another* word (the store-buffering pattern) takes a sequentially
/// consistent fence. On x86 every locked read-modify-write already drains the store buffer, so only the
/// compiler is left to be told; elsewhere, and in models, it is the real fence.
#[inline(always)]
pub(crate) fn fence_after_read_modify_write() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    core::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(loom))))]
    fence(Ordering::SeqCst);
}

/// Tells the processor that this is a spin loop. Nobody spins in a model.
pub(crate) use core::hint::spin_loop;

/// A word that only the owner of its slot touches.
///
/// Whoever owns the slot is alone with it, and the slot's word hands it from one owner to the next. It is an
/// atomic nevertheless, because memory that another process shares may change at any time: a wrong value then, and
/// never undefined behaviour. In a model it is a cell, and two threads at a time make the model fail.
#[cfg(not(loom))]
#[repr(transparent)]
#[derive(Debug, Default)]
pub(crate) struct OwnedWord(AtomicU64);

#[cfg(not(loom))]
impl OwnedWord {
    #[inline(always)]
    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    pub(crate) fn write(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// A word that only one thread at a time may touch: loom sees to it.
#[cfg(loom)]
#[derive(Debug, Default)]
pub struct OwnedWord(loom::cell::UnsafeCell<u64>);

// SAFETY: loom ends the model when two threads access the cell without one coming before the other.
#[cfg(loom)]
unsafe impl Sync for OwnedWord {}

#[cfg(loom)]
impl OwnedWord {
    /// What it holds.
    pub fn read(&self) -> u64 {
        // SAFETY: loom has just checked that no write is concurrent.
        self.0.with(|value| unsafe { *value })
    }

    /// Changes it.
    pub fn write(&self, value: u64) {
        // SAFETY: loom has just checked that no other access is concurrent.
        self.0.with_mut(|place| unsafe { *place = value });
    }
}

/// How a sleep on a [`FutexWord`] ended.
#[cfg(not(loom))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Somebody woke the sleeper, or the word had changed already.
    Notified,
    /// The time was up.
    TimedOut,
    /// A signal was handled on this thread.
    Signal,
}

/// A 32-bit atomic that threads can sleep on.
///
/// The kernel compares the word with the expected value and goes to sleep in one step with respect to every
/// wake, which is what makes "check, then sleep" safe.
///
/// It is never a private futex, which the kernel would find a little sooner: a word may be in memory that several
/// processes share, and a thread of another one would not be woken. One kind for all: who wakes need not know.
#[cfg(not(loom))]
#[repr(transparent)]
#[derive(Debug, Default)]
pub(crate) struct FutexWord(AtomicU32);

#[cfg(not(loom))]
impl core::ops::Deref for FutexWord {
    type Target = AtomicU32;

    #[inline(always)]
    fn deref(&self) -> &AtomicU32 {
        &self.0
    }
}

#[cfg(not(loom))]
impl FutexWord {
    /// Sleeps while the word holds `expected`, until woken, for at most `timeout`.
    pub(crate) fn wait(&self, expected: u32, timeout: Option<Duration>) -> Woken {
        let limit = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let limit = limit.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: the word is aligned and borrowed for the call; `limit` is null or points to a live timespec.
        let result = unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAIT, expected, limit) };
        if result == 0 {
            return Woken::Notified;
        }
        match std::io::Error::last_os_error().raw_os_error() {
            Some(libc::ETIMEDOUT) => Woken::TimedOut,
            Some(libc::EINTR) => Woken::Signal,
            _ => Woken::Notified, // EAGAIN: the word had changed already
        }
    }

    /// Wakes at most `count` sleepers.
    pub(crate) fn wake(&self, count: i32) {
        // SAFETY: the kernel only uses the address as a key; the word is borrowed for the call.
        unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE, count) };
    }
}

/// Loom's futex: comparing and going to sleep is one step because both happen under one mutex.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct FutexWord {
    value: AtomicU32,
    gate: loom::sync::Mutex<()>,
    sleepers: loom::sync::Condvar,
}

#[cfg(loom)]
impl Default for FutexWord {
    fn default() -> Self {
        FutexWord {
            value: AtomicU32::default(),
            gate: loom::sync::Mutex::new(()),
            sleepers: loom::sync::Condvar::new(),
        }
    }
}

#[cfg(loom)]
impl core::ops::Deref for FutexWord {
    type Target = AtomicU32;

    fn deref(&self) -> &AtomicU32 {
        &self.value
    }
}

#[cfg(loom)]
impl FutexWord {
    pub(crate) fn wait(&self, expected: u32) {
        let gate = self.gate.lock().expect("no model panics while it holds the gate");
        // The kernel reads the word with its own bucket lock held: it sees every store that came before a wake.
        if self.value.load(Ordering::Relaxed) == expected {
            drop(self.sleepers.wait(gate).expect("no model panics while it holds the gate"));
        }
    }

    pub(crate) fn wake(&self, count: i32) {
        let _gate = self.gate.lock().expect("no model panics while it holds the gate");
        if count == 1 {
            self.sleepers.notify_one();
        } else {
            self.sleepers.notify_all();
        }
    }
}

/// What the models of `tests/loom` need: atomics, and the protocol with one part taken out.
#[cfg(loom)]
pub mod model {
    use core::cell::Cell;
    use std::sync::{Arc, Mutex};

    use loom::sync::Condvar;
    use loom::thread::{ThreadId, current};

    use super::Ordering;
    pub use super::OwnedWord;

    /// Loom's atomic, and what its search overlooks.
    ///
    /// Loom 0.7 remembers only the last access to an atomic, so a thread that loads before it stores hides from it
    /// that another thread's earlier load might also come after the store (its issues 166 and 392). Here a store
    /// touches a mark of every other thread that has loaded: a condition variable that nobody waits on. It orders
    /// nothing, but loom tries both orders of two threads that touch it.
    #[derive(Debug, Default)]
    pub struct Atomic<A> {
        value: A,
        loaded: Mutex<Vec<(ThreadId, Arc<Condvar>)>>,
    }

    impl<A> Atomic<A> {
        fn touch(&self, which: impl Fn(ThreadId) -> bool) {
            // Touching may run another thread: not with the marks locked.
            let marks = self.loaded.lock().expect("nobody panics here").clone();
            marks.iter().filter(|(thread, _)| which(*thread)).for_each(|(_, mark)| mark.notify_one());
        }

        fn before_load(&self) {
            let me = current().id();
            let mut marks = self.loaded.lock().expect("nobody panics here");
            if marks.iter().all(|(thread, _)| *thread != me) {
                marks.push((me, Arc::new(Condvar::new())));
            }
            drop(marks);
            self.touch(|thread| thread == me);
        }

        fn before_store(&self) {
            let me = current().id();
            self.touch(|thread| thread != me);
        }
    }

    /// The methods that the engine uses, as in `core`.
    macro_rules! atomic {
        ($name:ident: $value:ty, $(fn $modify:ident),*) => {
            /// An atomic of models.
            pub type $name = Atomic<loom::sync::atomic::$name>;

            #[expect(missing_docs, reason = "as in core")]
            impl $name {
                pub fn load(&self, ordering: Ordering) -> $value {
                    self.before_load();
                    self.value.load(ordering)
                }

                pub fn store(&self, value: $value, ordering: Ordering) {
                    self.before_store();
                    self.value.store(value, ordering);
                }

                pub fn compare_exchange(
                    &self,
                    seen: $value,
                    value: $value,
                    success: Ordering,
                    failure: Ordering,
                ) -> Result<$value, $value> {
                    self.before_store();
                    self.value.compare_exchange(seen, value, success, failure)
                }

                $(pub fn $modify(&self, value: $value, ordering: Ordering) -> $value {
                    if std::thread::panicking() {
                        return value; // a destructor after the model has failed: loom knows no thread any more
                    }
                    self.before_store();
                    self.value.$modify(value, ordering)
                })*
            }
        };
    }

    atomic!(AtomicU32: u32, fn swap, fn fetch_add, fn fetch_sub, fn fetch_or, fn fetch_and);
    atomic!(AtomicU64: u64, fn swap, fn fetch_add, fn fetch_sub);

    /// What can be taken out: the places that the engine marks with `essential!`.
    #[expect(missing_docs, reason = "each is explained at its place")]
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Part {
        // ring
        NewLife,
        RingSeen,
        HintSeen,
        WordSeen,
        SameRing,
        Advance,
        Claim,
        Commit,
        HandBack,
        PutBack,
        PeekedStays,
        NextSeen,
        TailFirst,
        Link,
        MoveOn,
        Leave,
        ReadersLeft,
        ProducersLeft,
        SameFirst,
        HoleBehindTail,
        RecoveredCommit,
        RecoveredSlot,
        // event
        NotifyFence,
        WaitFence,
        Grown,
        Seen,
        PassOn,
        Watched,
        CountedAgain,
        OwnEpoch,
        EpochSeen,
        TurnPassesOn,
        BellRung,
        BellSeen,
        // lock
        Acquired,
        Released,
        TakeContended,
        WakeOwed,
        LockWatched,
        NameCleared,
        DeadNameCleared,
        Abandoned,
        AbandonedSeen,
        AbandonedWake,
        // flag
        FlagSet,
        FlagCleared,
        FlagSeen,
        SetSince,
        // semaphore
        SemaphoreAcquired,
        SemaphoreReleased,
        AccountPublished,
        AccountMovedOut,
        EntryChanges,
        LedgerSeen,
        StateMoved,
        AccountEmptied,
        RecoveryWakes,
        // waiters
        SeatCalled,
        SeatCounts,
        SeatCounted,
        SeatSeen,
        SeatHeard,
        BenchLinked,
        BenchSeen,
        // condition
        CallPassedOn,
        DeadCallPassedOn,
        // barrier
        Arrived,
        BarrierSeen,
        Acted,
        Broke,
        AllTold,
        DeadActed,
        DeadAwaited,
        DeadBroke,
        // journal
        JournalTaken,
        JournalGivenBack,
        JournalCommitted,
        JournalRedone,
        JournalOwnerDead,
        // memory
        ChangeBeforeSleepers,
        SleepersBeforeChange,
        PassedOn,
    }

    thread_local! {
        /// Loom runs all threads of a model as coroutines of one thread.
        static MISSING: Cell<Option<Part>> = const { Cell::new(None) };
    }

    /// Runs `model` without `part`.
    pub fn without(part: Part, model: impl FnOnce()) {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                MISSING.set(None);
            }
        }
        MISSING.set(Some(part));
        let _restore = Restore;
        model();
    }

    /// Whether a part is taken out.
    pub fn is_missing(part: Part) -> bool {
        MISSING.get() == Some(part)
    }

    /// What stands in the place of a part that was taken out.
    pub(crate) trait Absent {
        fn absent() -> Self;
    }

    /// An access that orders nothing.
    impl Absent for Ordering {
        fn absent() -> Ordering {
            Ordering::Relaxed
        }
    }

    /// A flag that is not set.
    impl Absent for u32 {
        fn absent() -> u32 {
            0
        }
    }

    /// A check that finds nothing.
    impl Absent for bool {
        fn absent() -> bool {
            false
        }
    }

    /// A step that is not made.
    impl Absent for () {
        fn absent() {}
    }
}
