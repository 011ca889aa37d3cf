//! A process that was started to run a worker, and the process that started it.
//!
//! What Python does not do in time if a call of C keeps the GIL is done here, by a thread that knows nothing of Python:
//! it reads what the parent asks for, and sees it die.
//!
//! ```text
//!   the parent   control.write(request) ──→  poll([control, the parent]) → ask the seat → SIGINT to the first thread
//!                answered.wait()  ←───────   answered = the request's number
//!                dies ────────────────────→  the same → terminate → wait → SIGKILL to itself
//! ```

use core::ffi::c_int;
use core::time::Duration;
use std::fs::File;
use std::io::{Error, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::time::Instant;

use multigil::object::{Handle, SharedMemory};
use multigil::queue::Queue;
use pyo3::ffi;

use crate::errors;
use crate::handle::HandleObject;
use crate::interpreter::handles;
use crate::py::{self, Arguments, Owned, Result, raise};
use crate::state::State;
use crate::wait::{self, Request, Seat};

/// How long a worker may take to clean up when its parent has died.
const PATIENCE: Duration = Duration::from_secs(2);
/// When a signal is sent again that may have come just before a system call: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// Bytes of a request: its number, that of the last task that it concerns, and what it is.
const REQUEST_BYTES: usize = 17;

/// `region_number()`: the number of this process's region.
pub(crate) unsafe extern "C" fn region_number(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let number = crate::state_of_module(module).home().region.number();
        Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(number))
    })
}

/// `region_descriptor()`: the file of this process's region, which stays open.
pub(crate) unsafe extern "C" fn region_descriptor(
    module: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let descriptor = crate::state_of_module(module).home().region.file().as_raw_fd();
        Owned::from_raw(ffi::PyLong_FromLong(descriptor.into()))
    })
}

/// `recover_dead()`: puts right what processes left that have died; how many interpreters it were.
pub(crate) unsafe extern "C" fn recover_dead(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_module(module);
        let home = state.home();
        let count = wait::detached(|| home.region.recover_dead(home.me));
        Owned::from_raw(ffi::PyLong_FromSize_t(count))
    })
}

/// `obey(control, parent, answered, inboxes)`: has the calling thread, the process's first one, be struck by what comes through
/// the pipe, and terminates it when the parent is dead.
pub(crate) unsafe extern "C" fn obey(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let parameters = [c"control", c"parent", c"answered", c"inboxes"];
        let [control, parent, answered, inboxes] = Arguments::new(values, count, names).parse("obey", parameters, 4)?;
        let state = crate::state_of_module(module);
        let control = descriptor(control)?;
        let parent = py::unsigned(parent)? as libc::pid_t;
        let worker = Worker {
            seat: wait::be_signalled(),
            answered: value(state, answered)?,
            inboxes: handles(state, inboxes)?,
            // The descriptor is the caller's gift.
            control: File::from_raw_fd(control),
            parent: open_process(parent),
        };
        match std::thread::Builder::new().name("multigil-control".to_owned()).spawn(move || worker.obey()) {
            Ok(_) => Ok(()),
            Err(error) => raise(ffi::PyExc_RuntimeError, &format!("can't start new thread: {error}")),
        }
    })
}

/// A handle of our own to a value.
unsafe fn value(state: &State, object: *mut ffi::PyObject) -> Result<Handle<'static, SharedMemory>> {
    let class = state.object(&state.objects.value_type)?;
    if ffi::PyObject_TypeCheck(object, class.as_ptr().cast()) == 0 {
        return raise(ffi::PyExc_TypeError, "argument 'answered' must be a Value");
    }
    let handle = HandleObject::<SharedMemory>::of(object).1;
    handle.region().attach(handle.id(), handle.owner()).or_else(|error| errors::attach(state, error))
}

unsafe fn descriptor(object: *mut ffi::PyObject) -> Result<c_int> {
    match ffi::PyObject_AsFileDescriptor(object) {
        ..0 => Err(py::Raised),
        descriptor => Ok(descriptor),
    }
}

/// The parent as a descriptor that is ready when it has ended; None if that has happened already.
fn open_process(parent: libc::pid_t) -> Option<File> {
    // SAFETY: no memory is passed.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, parent, 0) } as c_int;
    // SAFETY: as above. While it is the parent, the number is nobody else's.
    if descriptor < 0 || unsafe { libc::getppid() } != parent {
        return None;
    }
    // SAFETY: it was just opened, and nobody else has it.
    Some(unsafe { File::from_raw_fd(descriptor) })
}

/// What the thread has that obeys.
struct Worker {
    seat: Arc<Seat>,
    answered: Handle<'static, SharedMemory>,
    inboxes: Vec<Handle<'static, Queue>>,
    control: File,
    parent: Option<File>,
}

impl Worker {
    fn obey(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let again = self.seat.strike_again();
            pause = if again { (2 * pause).min(LAST_PAUSE) } else { FIRST_PAUSE };
            match self.poll(again.then_some(pause)) {
                Some(Event::Request(number, request)) => {
                    self.ask(request);
                    self.answer(number);
                }
                Some(Event::Death) => return self.end(),
                None => {}
            }
        }
    }

    /// What comes next, if it comes soon enough.
    fn poll(&mut self, timeout: Option<Duration>) -> Option<Event> {
        let Some(parent) = &self.parent else { return Some(Event::Death) };
        let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as c_int);
        let entry = |file: &File| libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let mut polled = [entry(&self.control), entry(parent)];
        // SAFETY: the kernel writes to the entries of a live array.
        if unsafe { libc::poll(polled.as_mut_ptr(), 2, timeout) } < 0 {
            // This thread blocks no signals, so any of them may end the call; nothing else can.
            debug_assert_eq!(Error::last_os_error().raw_os_error(), Some(libc::EINTR));
            return None;
        }
        if polled[1].revents != 0 {
            return Some(Event::Death);
        }
        if polled[0].revents == 0 {
            return None;
        }
        let mut bytes = [0; REQUEST_BYTES];
        if self.control.read_exact(&mut bytes).is_err() {
            return Some(Event::Death); // it has become another program
        }
        let [.., what] = bytes;
        let number = |start| u64::from_le_bytes(core::array::from_fn(|place| bytes[start + place]));
        let request = if what == b'T' { Request::Terminate } else { Request::Interrupt(number(8)) };
        Some(Event::Request(number(0), request))
    }

    /// Tells that a request has been seen to.
    fn answer(&self, number: u64) {
        if let Some(element) = self.answered.element(0) {
            element.store(number);
            self.answered.changes(0).notify(u32::MAX);
        }
    }

    fn ask(&self, request: Request) {
        if request == Request::Terminate && !wait::is_finalizing() {
            for inbox in &self.inboxes {
                inbox.shut_down(true, inbox.region(), inbox.owner());
            }
        }
        // SAFETY: the seat is that of a thread that is struck by a signal, which takes nothing of Python's.
        unsafe { self.seat.ask(request, None) };
    }

    /// Ends the process: its results are nobody's any more.
    fn end(self) {
        self.ask(Request::Terminate);
        let deadline = Instant::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        while Instant::now() < deadline {
            std::thread::sleep(pause);
            pause = (2 * pause).min(PATIENCE / 8);
            self.seat.strike_again();
        }
        // SAFETY: no memory is passed.
        unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    }
}

/// What the thread waits for.
enum Event {
    /// Of the parent's, and its number.
    Request(u64, Request),
    /// Of the parent.
    Death,
}
