//! What `diagnose()` asks the engine: which locks are held, which threads wait, and what an interpreter's threads do.

use core::ffi::CStr;
use core::ptr::{NonNull, null_mut};
use std::ffi::CString;
use std::time::Instant;

use multigil::layout::ObjectKind;
use pyo3::ffi;

use crate::interpreter;
use crate::py::{self, Arguments, Owned, Raised, Result};
use crate::state::{self, State};
use crate::wait::{self, Topic};

/// What something is called, and its id: `(class, index, generation)`. What is no object has generation -1; an
/// interpreter, whose end or answer is waited for, has its thread's native id.
unsafe fn describe(state: &State, subject: Topic, asker: u32) -> Result<Owned> {
    let home = state.home().region.number();
    let (name, index, generation) = match subject {
        Topic::Object(ObjectKind::Queue, id, region) if region == home => match interpreter::thread_behind(id) {
            Some(thread) if thread == asker => (c"calls", 0, -1),
            Some(thread) => (c"Interpreter", thread, -1),
            None => (c"Queue", id.index, i64::from(id.generation)),
        },
        Topic::Object(kind, id, _) => (class_name(kind), id.index, i64::from(id.generation)),
        Topic::Thread(thread) => (c"Interpreter", thread, -1),
        Topic::Several => (c"several things", 0, -1),
        Topic::Nothing => (c"multigil itself", 0, -1),
    };
    Owned::from_raw(ffi::Py_BuildValue(c"sIL".as_ptr(), name.as_ptr(), index, generation))
}

/// The class that `multigil` has of a kind.
const fn class_name(kind: ObjectKind) -> &'static CStr {
    match kind {
        ObjectKind::Queue => c"Queue",
        ObjectKind::LifoQueue => c"LifoQueue",
        ObjectKind::PriorityQueue => c"PriorityQueue",
        ObjectKind::Lock => c"Lock",
        ObjectKind::RLock => c"RLock",
        ObjectKind::Flag => c"Event",
        ObjectKind::Semaphore => c"Semaphore",
        ObjectKind::Condition => c"Condition",
        ObjectKind::Barrier => c"Barrier",
        ObjectKind::Memory => c"Value or Array", // nobody waits for others
        ObjectKind::Bench => c"Bench",
    }
}

/// `waits() -> [(native_id, interpreter_id, seconds, subject), …]`
pub(crate) unsafe extern "C" fn waits(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let (state, now) = (crate::state_of_module(module), Instant::now());
        py::list(wait::waits(), |waiting| {
            let subject = describe(state, waiting.subject, waiting.thread)?;
            let seconds = now.saturating_duration_since(waiting.since).as_secs_f64();
            let format = c"ILdO";
            Owned::from_raw(ffi::Py_BuildValue(
                format.as_ptr(),
                waiting.thread,
                waiting.interpreter,
                seconds,
                subject.as_ptr(),
            ))
        })
    })
}

/// `held_locks() -> [(subject, interpreter_id, native_id), …]`
pub(crate) unsafe extern "C" fn held_locks(module: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_module(module);
        let region = state.home().region;
        py::list(region.held_locks(state.home().me), |(kind, id, owner)| {
            let subject = describe(state, Topic::Object(kind, id, region.number()), owner.thread)?;
            let interpreter = state::interpreter_id(region, owner.peer);
            Owned::from_raw(ffi::Py_BuildValue(c"OLI".as_ptr(), subject.as_ptr(), interpreter, owner.thread))
        })
    })
}

/// `frames() -> {ident: frame, …}`: the innermost frame of each thread of this interpreter.
///
/// `sys._current_frames()` goes through the threads of all interpreters, and aborts for it before 3.14.8.
pub(crate) unsafe extern "C" fn frames(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let dict = Owned::from_raw(ffi::PyDict_New())?;
        let Some(place) = place_of_ident() else { return Ok(dict) };
        // Whoever ends a thread of this interpreter has its GIL, which is ours now; new ones come in front.
        let mut thread = ffi::PyInterpreterState_ThreadHead(ffi::PyInterpreterState_Get());
        while !thread.is_null() {
            if let Some(frame) = NonNull::new(ffi::PyThreadState_GetFrame(thread)) {
                let frame = Owned::from_raw(frame.as_ptr().cast())?;
                let ident = Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(*thread.cast::<u64>().add(place)))?;
                py::check(ffi::PyDict_SetItem(dict.as_ptr(), ident.as_ptr(), frame.as_ptr()))?;
            }
            thread = ffi::PyThreadState_Next(thread);
        }
        Ok(dict)
    })
}

/// The word of a thread state that holds its thread's `ident`.
///
/// No function gives it for other threads, and it is elsewhere in each version, but always just before the kernel's id
/// of the thread: so our own two are looked for in our own state.
unsafe fn place_of_ident() -> Option<usize> {
    /// A part of every version's thread states.
    const WORDS: usize = 40;
    let words = core::slice::from_raw_parts(ffi::PyThreadState_Get().cast::<u64>(), WORDS);
    let mine = [ffi::PyThread_get_thread_ident(), u64::from(libc::gettid() as u32)];
    words.windows(2).position(|pair| *pair == mine)
}

/// `interpreter_ids() -> [int, …]`
pub(crate) unsafe extern "C" fn interpreter_ids(_: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| py::list(interpreter::ids(), |id| Owned::from_raw(ffi::PyLong_FromLongLong(id))))
}

/// `look_into(interpreter_id, source, timeout) -> bytes | None`
pub(crate) unsafe extern "C" fn look_into(
    module: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let parameters = [c"interpreter_id", c"source", c"timeout"];
        let [id, source, timeout] = Arguments::new(values, count, names).parse("look_into", parameters, 3)?;
        let id = ffi::PyLong_AsLongLong(id);
        let source = ffi::PyUnicode_AsUTF8AndSize(source, null_mut());
        if source.is_null() || !ffi::PyErr_Occurred().is_null() {
            return Err(Raised);
        }
        let source = CString::from(CStr::from_ptr(source));
        let deadline = wait::join_timeout(timeout)?;
        let state: &State = crate::state_of_module(module);
        match interpreter::look_into(state, id, source, deadline)? {
            None => Ok(Owned::none()),
            Some(bytes) => {
                Owned::from_raw(ffi::PyBytes_FromStringAndSize(bytes.as_ptr().cast(), bytes.len() as ffi::Py_ssize_t))
            }
        }
    })
}
