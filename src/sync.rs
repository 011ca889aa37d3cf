//! The one door to atomics, fences and the futex: `core` and the kernel in normal builds, loom's in models.
//!
//! Every other room takes its concurrency types from here (clippy's `disallowed-types` sees to it), so that
//! `RUSTFLAGS="--cfg loom" cargo test --test loom` explores the very code that runs in production.
//!
//! `unsafe` here: the futex system call, and nothing else. It reads one aligned word that outlives the call.
#![expect(unsafe_code, reason = "the futex system call")]
#![expect(clippy::disallowed_types, reason = "this is the facade that the lint points to")]

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{Ordering, fence};
use core::time::Duration;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

// Aliases and not `pub use`, which clippy's lint would see through.
#[cfg(not(loom))]
pub(crate) type AtomicBool = core::sync::atomic::AtomicBool;
#[cfg(not(loom))]
pub(crate) type AtomicU32 = core::sync::atomic::AtomicU32;
#[cfg(not(loom))]
pub(crate) type AtomicU64 = core::sync::atomic::AtomicU64;
#[cfg(not(loom))]
pub(crate) type AtomicUsize = core::sync::atomic::AtomicUsize;
#[cfg(not(loom))]
pub(crate) type AtomicPtr<T> = core::sync::atomic::AtomicPtr<T>;

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

/// Tells the processor (or loom) that this is a spin loop.
#[inline(always)]
pub(crate) fn spin_loop() {
    #[cfg(not(loom))]
    core::hint::spin_loop();
    #[cfg(loom)]
    loom::thread::yield_now();
}

/// How a sleep on a [`FutexWord`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Somebody woke the sleeper, or the word had changed already.
    Notified,
    /// The time was up. Loom has no time, so its sleeps never end like this.
    #[cfg_attr(loom, expect(dead_code, reason = "loom has no time"))]
    TimedOut,
    /// A signal was handled on this thread. Loom has no signals either.
    #[cfg_attr(loom, expect(dead_code, reason = "loom has no signals"))]
    Signal,
}

/// A 32-bit atomic that threads can sleep on.
///
/// The kernel compares the word with the expected value and goes to sleep in one step with respect to every
/// wake, which is what makes "check, then sleep" safe.
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
        let operation = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the word is aligned and borrowed for the call; `limit` is null or points to a live timespec.
        let result = unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), operation, expected, limit) };
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
        let operation = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
        // SAFETY: the kernel only uses the address as a key; the word is borrowed for the call.
        unsafe { libc::syscall(libc::SYS_futex, self.0.as_ptr(), operation, count) };
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
        FutexWord { value: AtomicU32::new(0), gate: loom::sync::Mutex::new(()), sleepers: loom::sync::Condvar::new() }
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
    pub(crate) fn wait(&self, expected: u32, timeout: Option<Duration>) -> Woken {
        assert!(timeout.is_none(), "loom has no time");
        let gate = self.gate.lock().expect("no model panics while it holds the gate");
        // The kernel reads the word with its own bucket lock held: it sees every store that came before a wake.
        if self.value.load(Ordering::Relaxed) == expected {
            drop(self.sleepers.wait(gate).expect("no model panics while it holds the gate"));
        }
        Woken::Notified
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
