//! Waiting without the GIL, and what may end it: time, signals, and `interrupt()` or `terminate()`; and where those two
//! may strike at all.

use core::cell::{Cell, OnceCell};
use core::ffi::c_long;
use core::mem;
use core::ptr::null_mut;
use core::time::Duration;
use std::sync::{Arc, Weak};
use std::time::Instant;

use multigil::event::{Lookout, Parker, Patience};
use multigil::layout::{ObjectId, ObjectKind};
use multigil::object::{Handle, SharedState};
use parking_lot::Mutex;
use pyo3::ffi;

use crate::handle::{place, this_thread};
use crate::py::{self, Owned, Raised, Result, check, raise};
use crate::state::{Place, State};

/// Seconds; `threading.TIMEOUT_MAX`: nanoseconds in a 64-bit integer.
const TIMEOUT_MAX: f64 = 9_223_372_036.0;

/// How long a wait spins before it sleeps. Longer than it takes to wake a sleeper (20 to 30 µs): two that answer each
/// other would otherwise, once both have slept, find each other asleep for ever.
pub(crate) const SPIN: Duration = Duration::from_micros(50);

/// How long a thread that handles signals sleeps at first, and at most. A signal that arrives between the last look at
/// them and the sleep does not end that, and no system call sleeps on a word and lets signals in as one step; so Ctrl-C
/// is noticed at the next look, which is due when the wait has lasted about twice as long.
const FIRST_SLICE: Duration = Duration::from_millis(2);
const LAST_SLICE: Duration = Duration::from_secs(1);

/// Whether Python runs signal handlers on this thread: the process's first one, but for embedded Pythons.
fn handles_signals() -> bool {
    FIRST.get()
}

thread_local! {
    static FIRST: Cell<bool> = Cell::new(is_first());
}

fn is_first() -> bool {
    // SAFETY: neither has preconditions.
    unsafe { libc::getpid() == libc::gettid() }
}

/// What a thread is asked to raise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// KeyboardInterrupt, in the task of this number or an earlier one.
    Interrupt(u64),
    /// InterpreterTerminated, in whatever runs.
    Terminate,
}

impl Request {
    /// Whether it may strike a task.
    const fn concerns(self, number: u64) -> bool {
        match self {
            Request::Interrupt(last) => number <= last,
            Request::Terminate => true,
        }
    }

    /// The exception's class.
    unsafe fn class(self, state: &State) -> Result<Owned> {
        match self {
            Request::Interrupt(_) => Ok(Owned::from_borrowed(ffi::PyExc_KeyboardInterrupt)),
            Request::Terminate => state.object(&state.objects.interpreter_terminated),
        }
    }

    unsafe fn raise<T>(self, state: &State) -> Result<T> {
        ffi::PyErr_SetNone(self.class(state)?.as_ptr());
        Err(Raised)
    }
}

/// Where a thread can be asked to raise something.
///
/// A thread is *exposed* while it is in [`expose`], and shielded otherwise: what is asked of it then is noted, and
/// raised where the next task begins that it concerns.
#[derive(Debug, Default)]
pub(crate) struct Seat {
    parker: Parker,
    inner: Mutex<SeatState>,
}

/// Whoever holds the mutex around it waits for no GIL meanwhile.
#[derive(Debug, Default)]
struct SeatState {
    exposed: Option<Exposed>,
    /// The task that was exposed last. What is noted for it between two exposures comes too late.
    begun: u64,
    /// An interrupt was noted, for the next task up to this one.
    interrupted: u64,
    /// InterpreterTerminated was asked for, once and for all: Python may drop it, as it does in a `__del__`.
    terminated: bool,
    /// What the thread waits for, if it is in one of our waits.
    waiting: Option<Waiting>,
    /// What the wait shall raise.
    request: Option<Request>,
    /// An asynchronous exception was set since the thread is exposed; it may have been raised or not.
    struck: bool,
    /// The thread, if it is the one that handles signals and is struck by one: that ends its system calls, too.
    signalled: Option<u64>,
    /// What the signal's handler shall raise.
    tripped: Option<Request>,
}

/// What a wait is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject {
    /// One of the engine's objects. The place is good as long as the wait lasts.
    Object(ObjectKind, ObjectId, Place),
    /// The end of an interpreter, by the kernel's id of its thread.
    Thread(u32),
    /// Several things at once.
    Several,
    /// Something of our own that comes soon.
    Nothing,
}

/// The same, for those who look at it from elsewhere: the region's number instead of the region.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Topic {
    /// One of the engine's objects.
    Object(ObjectKind, ObjectId, u64),
    /// The end of an interpreter, by the kernel's id of its thread.
    Thread(u32),
    /// Several things at once.
    Several,
    /// Something of our own that comes soon.
    Nothing,
}

impl From<Subject> for Topic {
    fn from(subject: Subject) -> Topic {
        match subject {
            Subject::Object(kind, id, place) => Topic::Object(kind, id, place.region.number()),
            Subject::Thread(thread) => Topic::Thread(thread),
            Subject::Several => Topic::Several,
            Subject::Nothing => Topic::Nothing,
        }
    }
}

impl Subject {
    /// An object.
    pub(crate) fn of<T: SharedState>(handle: &Handle<'static, T>) -> Subject {
        Subject::Object(T::KIND, handle.id(), place(handle))
    }
}

/// A wait that is going on, for diagnosis.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) subject: Topic,
    /// CPython's id of the interpreter, and the kernel's of the thread.
    pub(crate) interpreter: i64,
    pub(crate) thread: u32,
    pub(crate) since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Exposed {
    number: u64,
    /// Of the thread's interpreter: alive, because the thread is in a function of its module.
    state: &'static State,
}

impl Seat {
    /// Does what is requested, or notes it; false if that takes an asynchronous exception and `ident` is missing.
    ///
    /// With `ident`, the thread's own, the caller is attached to the interpreter of the thread.
    pub(crate) unsafe fn ask(&self, request: Request, ident: Option<u64>) -> bool {
        let mut inner = self.inner.lock();
        inner.terminated |= request == Request::Terminate;
        let Some(exposed) = inner.exposed.filter(|exposed| request.concerns(exposed.number)) else {
            if let Request::Interrupt(last) = request {
                inner.interrupted = inner.interrupted.max(last);
            }
            return true;
        };
        let request = if inner.terminated { Request::Terminate } else { request };
        if inner.waiting.is_some() {
            inner.request = Some(request);
            self.parker.interrupt();
            return true;
        }
        inner.signalled.or(ident).is_some_and(|ident| inner.strike(ident, request, exposed.state).is_ok())
    }

    /// Sends the signal again, if its handler has not run since; whether that was so.
    ///
    /// A signal that arrives when the thread is about to sleep in a system call does not end that.
    pub(crate) fn strike_again(&self) -> bool {
        let inner = self.inner.lock();
        let thread = inner.signalled.filter(|_| inner.tripped.is_some());
        thread.is_some_and(|thread| {
            send_signal(thread);
            true
        })
    }

    /// What [`wait`] does, by the thread of this seat: what `operation` gave, and what was requested when that was over.
    unsafe fn wait<T, E>(
        &self,
        state: &State,
        subject: Subject,
        deadline: Option<Instant>,
        spin: Duration,
        mut operation: impl FnMut(&Patience<'_>) -> core::result::Result<T, E>,
        interrupted: impl Fn(&E) -> bool,
    ) -> Result<(core::result::Result<T, E>, Option<Request>)> {
        let (place, places);
        let lookout: &dyn Lookout = if let Subject::Object(_, _, of_object) = subject {
            place = of_object;
            &place
        } else {
            places = state.places();
            &places
        };
        let mut patience = Patience::new(deadline, spin, &self.parker).watching(lookout);
        let mut slices = handles_signals()
            .then(|| core::iter::successors(Some(FIRST_SLICE), |slice| Some((*slice * 2).min(LAST_SLICE))));
        let waiting = Waiting {
            subject: subject.into(),
            interpreter: state.interpreter,
            thread: this_thread(state.home().me).thread,
            since: Instant::now(),
        };
        loop {
            // A signal that has arrived by now would not end the sleep.
            check(ffi::PyErr_CheckSignals())?;
            if let Some(slice) = slices.as_mut().and_then(Iterator::next) {
                patience = patience.in_slices(slice);
            }
            self.inner.lock().waiting = Some(waiting);
            let result = detached(|| operation(&patience));
            let mut inner = self.inner.lock();
            inner.waiting = None;
            let request = inner.request.take();
            drop(inner);
            if request.is_some() {
                self.parker.take_interrupt();
            }
            match (&result, request) {
                (Err(error), Some(request)) if interrupted(error) => return request.raise(state),
                (Err(error), None) if interrupted(error) => {}
                _ => return Ok((result, request)),
            }
        }
    }

    /// Forgets what the thread has exposed, if `freeze` has stopped it for good. Nothing is asked of it meanwhile.
    pub(crate) fn vacate(&self, freeze: impl FnOnce() -> bool) -> bool {
        let mut inner = self.inner.lock();
        let frozen = freeze();
        if frozen {
            inner.exposed = None;
        }
        frozen
    }
}

impl SeatState {
    /// Exposes a task, unless something was noted for it.
    fn begin(&mut self, exposed: Exposed) -> core::result::Result<Option<Exposed>, Request> {
        let number = exposed.number;
        if self.terminated {
            return Err(Request::Terminate);
        }
        let noted = Request::Interrupt(self.interrupted);
        if noted.concerns(number) && number != self.begun {
            self.interrupted = 0; // one interrupt strikes one task
            return Err(noted);
        }
        if number != NO_TASK {
            self.begun = number;
        }
        Ok(self.exposed.replace(exposed))
    }

    /// Has the next bytecode of the thread raise, which is exposed.
    unsafe fn strike(&mut self, ident: u64, request: Request, state: &State) -> Result<()> {
        if let Some(thread) = self.signalled {
            self.tripped = Some(request);
            send_signal(thread);
            return Ok(());
        }
        let class = request.class(state)?;
        self.struck = true;
        ffi::PyThreadState_SetAsyncExc(ident as c_long, class.as_ptr());
        state.loops.wake();
        Ok(())
    }
}

thread_local! {
    static SEAT: OnceCell<Arc<Seat>> = const { OnceCell::new() };
}

/// The seats of all threads.
static SEATS: Mutex<Vec<Weak<Seat>>> = Mutex::new(Vec::new());

/// Gives the calling thread, which is new, a seat that others know.
pub(crate) fn sit_down(seat: Arc<Seat>) {
    let mut seats = SEATS.lock();
    if seats.len() == seats.capacity() {
        seats.retain(|seat| seat.strong_count() != 0); // now and then, so that it costs each new thread nothing
    }
    seats.push(Arc::downgrade(&seat));
    drop(seats);
    SEAT.with(|mine| drop(mine.set(seat)));
}

/// In a forked child, which has no other threads.
pub(crate) fn forget_other_threads() {
    FIRST.set(is_first());
    let mine = SEAT.with(|mine| mine.get().map(Arc::downgrade));
    // SAFETY: nobody else is here. Whoever had it locked has stayed with the parent.
    unsafe { (&raw const SEATS).cast_mut().write(Mutex::new(mine.into_iter().collect())) };
}

fn with_seat<T>(body: impl FnOnce(&Seat) -> T) -> T {
    SEAT.with(|mine| {
        if mine.get().is_none() {
            sit_down(Arc::default());
        }
        body(mine.get_or_init(Arc::default))
    })
}

/// Has the calling thread, which handles signals, be struck by SIGINT from now on, whose handler is [`answer_signal`].
/// Gives its seat.
pub(crate) unsafe fn be_signalled() -> Arc<Seat> {
    with_seat(|seat| seat.inner.lock().signalled = Some(ffi::PyThread_get_thread_ident()));
    SEAT.with(|mine| Arc::clone(mine.get().expect("it has just sat down")))
}

fn send_signal(thread: u64) {
    // SAFETY: it is the process's first thread, which is there as long as the process.
    unsafe { libc::pthread_kill(thread, libc::SIGINT) };
}

/// `answer_signal(signal, frame)`: raises what the calling thread was struck with. Nothing, if the signal came from elsewhere.
pub(crate) unsafe extern "C" fn answer_signal(
    module: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| match with_seat(|seat| seat.inner.lock().tripped.take()) {
        Some(request) => request.raise(crate::state_of_module(module)),
        None => Ok(()),
    })
}

/// The waits that are going on in all threads.
pub(crate) fn waits() -> Vec<Waiting> {
    let seats: Vec<_> = SEATS.lock().iter().filter_map(Weak::upgrade).collect();
    seats.iter().filter_map(|seat| seat.inner.lock().waiting).collect()
}

/// Calls `body`, which belongs to the task `number`: what is asked of the thread strikes in there and nowhere else.
///
/// Raises what was noted instead, if something was. What was set when `body` is over and was not raised is taken back.
pub(crate) unsafe fn expose<T>(state: &'static State, number: u64, body: impl FnOnce() -> Result<T>) -> Result<T> {
    with_seat(|seat| {
        let begun = seat.inner.lock().begin(Exposed { number, state });
        let outer = match begun {
            Ok(outer) => outer,
            Err(request) => return request.raise(state),
        };
        let result = body();
        let mut inner = seat.inner.lock();
        inner.exposed = outer;
        inner.tripped = None;
        if mem::take(&mut inner.struck) {
            ffi::PyThreadState_SetAsyncExc(ffi::PyThread_get_thread_ident() as c_long, null_mut());
        }
        result
    })
}

/// Stands for what only `terminate()` strikes.
pub(crate) const NO_TASK: u64 = u64::MAX;

/// Waits for what `operation` does, with the GIL given to others, until `deadline`.
///
/// `operation` is called again with the time that is left when a signal arrived whose handler raised nothing (PEP 475);
/// `interrupted` tells its errors of that kind.
pub(crate) unsafe fn wait<T, E>(
    state: &State,
    subject: Subject,
    deadline: Option<Instant>,
    operation: impl FnMut(&Patience<'_>) -> core::result::Result<T, E>,
    interrupted: impl Fn(&E) -> bool,
) -> Result<core::result::Result<T, E>> {
    wait_spinning(state, subject, deadline, SPIN, operation, interrupted)
}

/// The same, after spinning for so long: not at all where that would keep those from working who are waited for.
pub(crate) unsafe fn wait_spinning<T, E>(
    state: &State,
    subject: Subject,
    deadline: Option<Instant>,
    spin: Duration,
    operation: impl FnMut(&Patience<'_>) -> core::result::Result<T, E>,
    interrupted: impl Fn(&E) -> bool,
) -> Result<core::result::Result<T, E>> {
    with_seat(|seat| {
        let (result, request) = seat.wait(state, subject, deadline, spin, operation, interrupted)?;
        if let Some(request) = request {
            // What the wait gave must not be lost.
            seat.inner.lock().strike(ffi::PyThread_get_thread_ident(), request, state)?;
        }
        Ok(result)
    })
}

/// As [`wait`], for an operation whose outcome is not lost if it is not taken: what is requested when it is just over is
/// raised, too.
pub(crate) unsafe fn wait_or_raise<T, E>(
    state: &State,
    subject: Subject,
    deadline: Option<Instant>,
    operation: impl FnMut(&Patience<'_>) -> core::result::Result<T, E>,
    interrupted: impl Fn(&E) -> bool,
) -> Result<core::result::Result<T, E>> {
    with_seat(|seat| {
        let (result, request) = seat.wait(state, subject, deadline, SPIN, operation, interrupted)?;
        request.map_or(Ok(result), |request| request.raise(state))
    })
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
    if is_finalizing() && !handles_signals() {
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
    if !py::truth(block, true)? {
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
    let blocking = py::truth(blocking, true)?;
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
    match (py::truth(blocking, true)?, join_timeout(timeout)?) {
        (true, deadline) => Ok(Willing::Until(deadline)),
        (false, None) => Ok(Willing::No),
        (false, Some(_)) => raise(ffi::PyExc_ValueError, "can't specify timeout for non-blocking acquire"),
    }
}

/// How long a timeout is that may be None, for ever; one that is negative is none at all.
pub(crate) unsafe fn time_limit(timeout: *mut ffi::PyObject) -> Result<Option<Duration>> {
    if timeout.is_null() || timeout == ffi::Py_None() {
        return Ok(None);
    }
    Ok(Some(Duration::from_secs_f64(seconds(timeout)?.max(0.0))))
}

/// When a `join(timeout)` that counts from now ends; None waits for ever.
pub(crate) unsafe fn join_timeout(timeout: *mut ffi::PyObject) -> Result<Option<Instant>> {
    Ok(time_limit(timeout)?.map(|limit| Instant::now() + limit))
}
