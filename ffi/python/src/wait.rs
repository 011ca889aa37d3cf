//! Waiting without the GIL, and what may end it: time, signals, and `interrupt()` or `terminate()`.

use core::ffi::c_long;
use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use multigil::event::{Parker, Patience};
use parking_lot::Mutex;
use pyo3::ffi;

use crate::py::{Owned, Raised, Result, raise};
use crate::state::State;

/// Seconds; `threading.TIMEOUT_MAX`: nanoseconds in a 64-bit integer.
const TIMEOUT_MAX: f64 = 9_223_372_036.0;

/// How long a wait spins before it sleeps. Longer than it takes to wake a sleeper (20 to 30 µs): two that answer each
/// other would otherwise, once both have slept, find each other asleep for ever.
const SPIN: Duration = Duration::from_micros(50);

/// How a thread of Python's is disturbed in our waits.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    parker: Parker,
    inner: Mutex<SeatState>,
}

#[derive(Debug, Default)]
struct SeatState {
    /// The thread is in one of our waits, without the GIL. It changes only with the GIL held.
    waiting: bool,
    /// The exception that the wait shall raise.
    request: Option<Request>,
}

/// What a thread is asked to raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// KeyboardInterrupt.
    Interrupt,
    /// InterpreterTerminated.
    Terminate,
}

impl Seat {
    /// Makes the thread raise what is requested, if it is in one of our waits; false if it is not.
    ///
    /// The caller holds the GIL of the thread's interpreter, so the thread neither enters nor leaves a wait meanwhile.
    pub(crate) fn disturb(&self, request: Request) -> bool {
        let mut state = self.inner.lock();
        if !state.waiting {
            return false;
        }
        state.request = Some(request);
        drop(state);
        self.parker.interrupt();
        true
    }
}

/// The seats of all threads that ever waited and still live, by `threading.get_ident()`.
static SEATS: LazyLock<Mutex<HashMap<u64, Arc<Seat>>>> = LazyLock::new(Mutex::default);

/// A thread's own seat, which it leaves when it ends.
struct Seated(u64, Arc<Seat>);

impl Drop for Seated {
    fn drop(&mut self) {
        SEATS.lock().remove(&self.0);
    }
}

thread_local! {
    static SEAT: Seated = {
        // SAFETY: asking for the calling thread's id has no preconditions.
        let ident = unsafe { ffi::PyThread_get_thread_ident() };
        let seat = Arc::new(Seat::default());
        SEATS.lock().insert(ident, Arc::clone(&seat));
        Seated(ident, seat)
    };
}

/// The calling thread's seat.
pub(crate) fn my_seat() -> Arc<Seat> {
    SEAT.with(|seat| Arc::clone(&seat.1))
}

/// Waits for what `operation` does, with the GIL given to others, until `deadline`.
///
/// `operation` is called again with the time that is left when a signal arrived whose handler raised nothing (PEP 475);
/// `interrupted` tells its errors of that kind.
pub(crate) unsafe fn wait<T, E>(
    state: &State,
    deadline: Option<Instant>,
    mut operation: impl FnMut(&Patience<'_>) -> core::result::Result<T, E>,
    interrupted: impl Fn(&E) -> bool,
) -> Result<core::result::Result<T, E>> {
    SEAT.with(|Seated(ident, seat)| {
        let patience = Patience::new(deadline, SPIN, &seat.parker);
        loop {
            seat.inner.lock().waiting = true;
            let result = detached(|| operation(&patience));
            let mut inner = seat.inner.lock();
            inner.waiting = false;
            let request = inner.request.take();
            drop(inner);
            let ended_early = matches!(&result, Err(error) if interrupted(error));
            if let Some(request) = request {
                seat.parker.take_interrupt();
                let class = request.class(state)?;
                if ended_early {
                    ffi::PyErr_SetNone(class.as_ptr());
                    return Err(Raised);
                }
                // The wait was over already. What it gave must not be lost, so the next bytecode raises.
                ffi::PyThreadState_SetAsyncExc(*ident as c_long, class.as_ptr());
            }
            if !ended_early {
                return Ok(result);
            }
            if ffi::PyErr_CheckSignals() < 0 {
                return Err(Raised);
            }
        }
    })
}

impl Request {
    /// The exception's class.
    pub(crate) unsafe fn class(self, state: &State) -> Result<Owned> {
        match self {
            Request::Interrupt => Ok(Owned::from_borrowed(ffi::PyExc_KeyboardInterrupt)),
            Request::Terminate => state.object(&state.objects.interpreter_terminated),
        }
    }
}

/// Runs `body` without the GIL.
pub(crate) unsafe fn detached<T>(body: impl FnOnce() -> T) -> T {
    let thread = ffi::PyEval_SaveThread();
    let result = body();
    stop_if_finalizing();
    ffi::PyEval_RestoreThread(thread);
    result
}

/// Whether the main interpreter is ending.
pub(crate) fn is_finalizing() -> bool {
    #[cfg(not(Py_3_13))]
    unsafe extern "C" {
        fn _Py_IsFinalizing() -> core::ffi::c_int;
    }
    #[cfg(not(Py_3_13))]
    use _Py_IsFinalizing as finalizing;
    #[cfg(Py_3_13)]
    use ffi::Py_IsFinalizing as finalizing;
    // SAFETY: it may be called at any time.
    unsafe { finalizing() != 0 }
}

/// Stays here for ever if the program is ending and this is not the thread that ends it.
///
/// CPython up to 3.13 would end the thread inside `PyEval_RestoreThread` by unwinding its stack, which Rust does not
/// allow; later ones hang it, as this does.
fn stop_if_finalizing() {
    // SAFETY: neither has preconditions.
    if is_finalizing() && unsafe { libc::getpid() != libc::gettid() } {
        loop {
            std::thread::park();
        }
    }
}

/// Seconds of a timeout argument, and what they are called in errors.
unsafe fn seconds(object: *mut ffi::PyObject) -> Result<f64> {
    let seconds = ffi::PyFloat_AsDouble(object);
    if seconds == -1.0 && !ffi::PyErr_Occurred().is_null() {
        return Err(Raised);
    }
    if seconds.is_nan() {
        return raise(ffi::PyExc_ValueError, "Invalid value NaN (not a number)");
    }
    if seconds > TIMEOUT_MAX {
        return raise(ffi::PyExc_OverflowError, "timeout value is too large");
    }
    Ok(seconds)
}

/// How long to wait: not at all, or until a time, or for ever.
pub(crate) enum Willing {
    /// Not at all.
    No,
    /// Until then; None is for ever.
    Until(Option<Instant>),
}

/// What `block` and `timeout` of a queue's methods mean; both may be null.
pub(crate) unsafe fn queue_timeout(block: *mut ffi::PyObject, timeout: *mut ffi::PyObject) -> Result<Willing> {
    if !crate::py::truth(block, true)? {
        return Ok(Willing::No);
    }
    if timeout.is_null() || timeout == ffi::Py_None() {
        return Ok(Willing::Until(None));
    }
    let seconds = seconds(timeout)?;
    if seconds < 0.0 {
        return raise(ffi::PyExc_ValueError, "'timeout' must be a non-negative number");
    }
    Ok(Willing::Until(Some(Instant::now() + Duration::from_secs_f64(seconds))))
}

/// What `blocking` and `timeout` of a lock's acquire mean; both may be null.
pub(crate) unsafe fn lock_timeout(blocking: *mut ffi::PyObject, timeout: *mut ffi::PyObject) -> Result<Willing> {
    let blocking = crate::py::truth(blocking, true)?;
    let seconds = if timeout.is_null() { -1.0 } else { seconds(timeout)? };
    if !blocking && seconds != -1.0 {
        return raise(ffi::PyExc_ValueError, "can't specify a timeout for a non-blocking call");
    }
    if seconds < 0.0 && seconds != -1.0 {
        return raise(ffi::PyExc_ValueError, "timeout value must be a non-negative number");
    }
    Ok(match (blocking, seconds) {
        (false, _) => Willing::No,
        (true, -1.0) => Willing::Until(None),
        (true, seconds) => Willing::Until(Some(Instant::now() + Duration::from_secs_f64(seconds))),
    })
}

/// What `blocking` and `timeout` of a semaphore's acquire mean; both may be null.
pub(crate) unsafe fn semaphore_timeout(blocking: *mut ffi::PyObject, timeout: *mut ffi::PyObject) -> Result<Willing> {
    match (crate::py::truth(blocking, true)?, join_timeout(timeout)?) {
        (true, deadline) => Ok(Willing::Until(deadline)),
        (false, None) => Ok(Willing::No),
        (false, Some(_)) => raise(ffi::PyExc_ValueError, "can't specify timeout for non-blocking acquire"),
    }
}

/// When a `join(timeout)` that counts from now ends; None waits for ever.
pub(crate) unsafe fn join_timeout(timeout: *mut ffi::PyObject) -> Result<Option<Instant>> {
    if timeout.is_null() || timeout == ffi::Py_None() {
        return Ok(None);
    }
    Ok(Some(Instant::now() + Duration::from_secs_f64(seconds(timeout)?.max(0.0))))
}
