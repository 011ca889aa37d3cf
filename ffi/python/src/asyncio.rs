//! The methods that give something to await. What they do is Python's: a function of `multigil._asyncio` each, or of
//! `multigil._custom_queue` for a queue of Python's own.

use core::ffi::{CStr, c_void};

use multigil::queue::Queue;
use pyo3::ffi;

use crate::handle::HandleObject;
use crate::py::{self, Arguments, Owned, Result};
use crate::{alarm, custom};

const NAMES: [&CStr; 7] = [c"aget", c"aput", c"ajoin", c"aacquire", c"aexit", c"await_", c"anext"];

/// A coroutine of the function of that place.
unsafe fn coroutine<const NAME: usize>(object: *mut ffi::PyObject, arguments: Arguments) -> Result<Owned> {
    if HandleObject::<Queue>::kind(object).is_none() {
        return custom::call(object, NAMES[NAME], arguments);
    }
    let function = HandleObject::<Queue>::state(object).asyncio()?.attribute(NAMES[NAME])?;
    arguments.pass_on(&function, object)
}

unsafe extern "C" fn call<const NAME: usize>(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| coroutine::<NAME>(object, Arguments::new(values, count, names)))
}

/// `__aiter__`
unsafe extern "C" fn iterate(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| Ok(Owned::from_borrowed(object)))
}

/// `__anext__`
unsafe extern "C" fn next(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| coroutine::<6>(object, Arguments::NONE))
}

/// `fileno()` of a queue, which may be one of Python's.
unsafe extern "C" fn queue_fileno(object: *mut ffi::PyObject, unused: *mut ffi::PyObject) -> *mut ffi::PyObject {
    if HandleObject::<Queue>::kind(object).is_some() {
        return alarm::fileno(object, unused);
    }
    py::guard(|| custom::call(object, c"fileno", Arguments::NONE))
}

pub(crate) const AGET: ffi::PyMethodDef = py::method_fast(
    c"aget",
    call::<0>,
    c"aget($self)\n--\n\n\
Await the next item, and take it out of the queue. Raises as get() does.\n\n\
Does not suspend if there is one. Who is cancelled has taken nothing.",
);
pub(crate) const APUT: ffi::PyMethodDef = py::method_fast(
    c"aput",
    call::<1>,
    c"aput($self, item)\n--\n\n\
Await a place in the queue, and put an item there. Raises as put() does.\n\n\
Does not suspend if there is one. Who is cancelled has put nothing.",
);
pub(crate) const AJOIN: ffi::PyMethodDef =
    py::method_fast(c"ajoin", call::<2>, c"ajoin($self)\n--\n\nAwait that every item that was put is reported done.");
pub(crate) const AACQUIRE: ffi::PyMethodDef = py::method_fast(
    c"aacquire",
    call::<3>,
    c"aacquire($self)\n--\n\n\
Await that it can be acquired, and do so; gives True, and raises as acquire() does. Who is cancelled has acquired nothing.",
);
pub(crate) const ENTER: ffi::PyMethodDef = py::method_fast(c"__aenter__", call::<3>, c"Acquire it.");
pub(crate) const EXIT: ffi::PyMethodDef = py::method_fast(c"__aexit__", call::<4>, c"Release it.");
pub(crate) const AWAIT: ffi::PyMethodDef = py::method_fast(
    c"await_",
    call::<5>,
    c"await_($self)\n--\n\n\
Await that the event is set; gives True. Whoever waits when it is set goes on, even if it is cleared at once.",
);
pub(crate) const QUEUE_FILENO: ffi::PyMethodDef =
    ffi::PyMethodDef { ml_meth: ffi::PyMethodDefPointer { PyCFunction: queue_fileno }, ..alarm::FILENO };

pub(crate) const ITERATE: ffi::PyType_Slot = ffi::PyType_Slot { slot: ffi::Py_am_aiter, pfunc: iterate as *mut c_void };
pub(crate) const NEXT: ffi::PyType_Slot = ffi::PyType_Slot { slot: ffi::Py_am_anext, pfunc: next as *mut c_void };
