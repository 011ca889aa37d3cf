//! `Semaphore` and `BoundedSemaphore`: those of `threading` in every method, between threads and interpreters.

use core::ffi::{c_int, c_void};
use core::ptr::null_mut;

use multigil::error::WaitError;
use multigil::object::SharedSemaphore;
use multigil::semaphore::Semaphore;
use pyo3::ffi;

use crate::handle::{self, HandleObject};
use crate::py::{self, Arguments, Owned, Result, raise};
use crate::wait::{self, Subject, Willing};
use crate::{alarm, asyncio};

type Object = HandleObject<SharedSemaphore>;

unsafe fn acquire(object: *mut ffi::PyObject, willing: Willing) -> Result<bool> {
    let (state, semaphore) = Object::of(object);
    match (semaphore.try_acquire(semaphore.owner()), willing) {
        (true, _) => Ok(true),
        (false, Willing::No) if handle::finds_dead(semaphore) => acquire(object, Willing::No),
        (false, Willing::No) => Ok(alarm::found(object, false)),
        (false, Willing::Until(deadline)) => {
            let result = wait::wait(
                state,
                Subject::of(semaphore),
                deadline,
                |patience| semaphore.acquire(semaphore.owner(), semaphore.region().bell(), patience),
                |error| *error == WaitError::Interrupted,
            )?;
            Ok(alarm::found(object, result.is_ok()))
        }
    }
}

unsafe fn release(object: *mut ffi::PyObject, count: u64) -> Result<()> {
    let semaphore = Object::of(object).1;
    let released = semaphore.release(semaphore.owner(), count, semaphore.region().bell());
    released.or_else(|error| raise(ffi::PyExc_ValueError, &error.to_string()))
}

unsafe extern "C" fn semaphore_acquire(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let arguments = Arguments::new(values, count, names);
        if arguments.is_empty() {
            return acquire(object, Willing::Until(None));
        }
        let [blocking, timeout] = arguments.parse("acquire", [c"blocking", c"timeout"], 0)?;
        acquire(object, wait::semaphore_timeout(blocking, timeout)?)
    })
}

unsafe extern "C" fn semaphore_release(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let [n] = Arguments::new(values, count, names).parse("release", [c"n"], 0)?;
        let n = if n.is_null() { 1 } else { py::integer(n)? };
        if n < 1 {
            return raise(ffi::PyExc_ValueError, "n must be one or more");
        }
        release(object, u64::try_from(n).unwrap_or(u64::MAX)) // more than there can be, either way
    })
}

unsafe extern "C" fn semaphore_exit(
    object: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| release(object, 1))
}

unsafe extern "C" fn semaphore_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let semaphore = Object::of(object).1;
        let value = semaphore.value();
        let status = semaphore.bound().map_or(format!("value={value}"), |bound| format!("value={value}/{bound}"));
        handle::repr(object, &status)
    })
}

unsafe extern "C" fn get_value(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(Object::of(object).1.value())))
}

unsafe extern "C" fn get_initial_value(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        let bound = Object::of(object).1.bound().unwrap_or_default(); // bounded ones have it
        Owned::from_raw(ffi::PyLong_FromUnsignedLongLong(bound))
    })
}

/// Whether objects of a class are bounded.
unsafe fn is_bounded(class: *mut ffi::PyTypeObject) -> Result<bool> {
    let state = crate::state_of_type(class)?;
    let bounded = state.object(&state.objects.bounded_semaphore_type)?;
    Ok(ffi::PyType_IsSubtype(class, bounded.as_ptr().cast()) != 0)
}

/// The arguments are `initialize`'s business: a subclass may have others.
unsafe extern "C" fn new_semaphore(
    class: *mut ffi::PyTypeObject,
    _: *mut ffi::PyObject,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_type(class)?;
        let bounded = is_bounded(class)?;
        let place = state.here();
        let semaphore = place.region.create_shared::<Semaphore>(place.me, |semaphore| semaphore.initialize(1, bounded));
        handle::wrap_made(state, class, semaphore)
    })
}

unsafe extern "C" fn initialize(
    object: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> c_int {
    py::guard_status(|| {
        let bounded = is_bounded(ffi::Py_TYPE(object))?;
        let name = if bounded { "BoundedSemaphore" } else { "Semaphore" };
        let value = py::with_arguments(arguments, keywords, |arguments| {
            let [value] = arguments.parse(name, [c"value"], 0)?;
            if value.is_null() { Ok(1) } else { py::integer(value) }
        })?;
        if value < 0 {
            return raise(ffi::PyExc_ValueError, "semaphore initial value must be >= 0");
        }
        let Some(value) = u64::try_from(value).ok().filter(|value| *value <= Semaphore::MAX) else {
            return raise(ffi::PyExc_OverflowError, "semaphore initial value is too large");
        };
        Object::of(object).1.initialize(value, bounded);
        Ok(())
    })
}

static mut METHODS: [ffi::PyMethodDef; 10] = [
    py::method_fast(
        c"acquire",
        semaphore_acquire,
        c"acquire($self, blocking=True, timeout=None)\n--\n\n\
Take one from the semaphore's value; whether it was taken.\n\n\
If blocking is true, wait for it, at most timeout seconds if that is not None. Otherwise give False at once if there is\n\
nothing to take.",
    ),
    py::method_fast(
        c"release",
        semaphore_release,
        c"release($self, n=1)\n--\n\n\
Add n to the semaphore's value, so that as many may go on.\n\n\
Raises ValueError, and adds nothing, if a bounded semaphore would have more than its first value.",
    ),
    py::method_fast(c"__enter__", semaphore_acquire, c"Take one from the semaphore's value."),
    py::method_fast(c"__exit__", semaphore_exit, c"Give it back."),
    asyncio::AACQUIRE,
    asyncio::ENTER,
    asyncio::EXIT,
    alarm::FILENO,
    py::method_no_args(c"__reduce__", handle::reduce::<SharedSemaphore>, c"Pickle the semaphore by its id."),
    py::METHODS_END,
];

const fn attribute(name: &'static core::ffi::CStr, get: ffi::getter) -> ffi::PyGetSetDef {
    // No part of the documented interface, but threading's have them, and programs look at them.
    ffi::PyGetSetDef { name: name.as_ptr(), get: Some(get), set: None, doc: core::ptr::null(), closure: null_mut() }
}

const ATTRIBUTES_END: ffi::PyGetSetDef =
    ffi::PyGetSetDef { name: core::ptr::null(), get: None, set: None, doc: core::ptr::null(), closure: null_mut() };

static mut ATTRIBUTES: [ffi::PyGetSetDef; 2] = [attribute(c"_value", get_value), ATTRIBUTES_END];
static mut BOUNDED_ATTRIBUTES: [ffi::PyGetSetDef; 2] =
    [attribute(c"_initial_value", get_initial_value), ATTRIBUTES_END];

/// Makes the type `Semaphore`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Semaphore(value=1)\n--\n\n\
A number that may be taken from while it is positive, shared by threads and interpreters; threading.Semaphore in every\n\
method.\n\n\
What a process that dies had taken, and nobody has given back, can be taken again. An interpreter that ends gives nothing\n\
back, as a thread does not.\n\n\
A semaphore may be sent to other interpreters, in a queue's items and as an argument.";
    let slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_init, pfunc: initialize as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_repr, pfunc: semaphore_repr as *mut c_void },
    ];
    let (methods, attributes) = ((&raw mut METHODS).cast(), (&raw mut ATTRIBUTES).cast());
    handle::make_type::<SharedSemaphore>(module, c"multigil.Semaphore", doc, new_semaphore, methods, attributes, &slots)
}

/// Makes the type `BoundedSemaphore`, a subclass of `Semaphore` that differs in its bound.
pub(crate) unsafe fn make_bounded_type(module: *mut ffi::PyObject, base: &Owned) -> Result<Owned> {
    let doc = c"BoundedSemaphore(value=1)\n--\n\n\
A semaphore that raises ValueError when it is released more often than it was acquired; threading.BoundedSemaphore in\n\
every method.";
    let attributes = ffi::PyType_Slot { slot: ffi::Py_tp_getset, pfunc: (&raw mut BOUNDED_ATTRIBUTES).cast() };
    handle::make_subtype::<SharedSemaphore>(module, c"multigil.BoundedSemaphore", doc, base, &[attributes])
}
