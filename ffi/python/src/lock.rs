//! `Lock`: `threading.Lock` in every method, between threads and interpreters.

use core::ffi::c_void;
use core::ptr::null_mut;

use multigil::error::WaitError;
use multigil::lock::Lock;
use multigil::object::SharedLock;
use pyo3::ffi;

use crate::errors;
use crate::handle::{self, HandleObject, owner};
use crate::py::{self, Arguments, Owned, Result, raise};
use crate::wait::{self, Subject, Willing};

type Object = HandleObject<SharedLock>;

unsafe fn acquire(object: *mut ffi::PyObject, willing: Willing) -> Result<bool> {
    let (state, lock) = Object::of(object);
    let me = owner(state);
    match (lock.try_acquire(me), willing) {
        (true, _) => Ok(true),
        (false, Willing::No) => Ok(false),
        (false, Willing::Until(deadline)) => {
            let result = wait::wait(
                state,
                Subject::of(lock),
                deadline,
                |patience| lock.acquire(me, patience),
                |error| *error == WaitError::Interrupted,
            )?;
            Ok(result.is_ok())
        }
    }
}

unsafe fn release(object: *mut ffi::PyObject) -> Result<()> {
    let (state, lock) = Object::of(object);
    lock.release(state.region.bell()).or_else(|error| raise(ffi::PyExc_RuntimeError, &error.to_string()))
}

unsafe extern "C" fn lock_acquire(
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
        acquire(object, wait::lock_timeout(blocking, timeout)?)
    })
}

unsafe extern "C" fn lock_release(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| release(object))
}

unsafe extern "C" fn lock_locked(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(Object::of(object).1.is_locked()))
}

unsafe extern "C" fn lock_enter(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| acquire(object, Willing::Until(None)))
}

unsafe extern "C" fn lock_exit(
    object: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| release(object))
}

/// In a forked child nobody else holds the lock: `threading` calls this for its own.
unsafe extern "C" fn lock_at_fork_reinit(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let (state, lock) = Object::of(object);
        let _ = lock.release(state.region.bell());
        Ok(())
    })
}

unsafe extern "C" fn lock_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = if Object::of(object).1.is_locked() { c"locked" } else { c"unlocked" };
        let name = Owned::from_raw(ffi::PyType_GetQualName(ffi::Py_TYPE(object)))?;
        let module = Owned::from_raw(ffi::PyObject_GetAttrString(ffi::Py_TYPE(object).cast(), c"__module__".as_ptr()))?;
        let format = c"<%s %S.%U object at %p>";
        Owned::from_raw(ffi::PyUnicode_FromFormat(
            format.as_ptr(),
            state.as_ptr(),
            module.as_ptr(),
            name.as_ptr(),
            object,
        ))
    })
}

unsafe extern "C" fn new_lock(
    class: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_type(class)?;
        py::check_no_arguments("Lock", class, &state.objects.lock_type, arguments, keywords)?;
        match state.region.create_shared::<Lock>(state.me, |_| {}) {
            Ok(handle) => handle::wrap(state, class, handle, None),
            Err(error) => errors::out_of_memory(error),
        }
    })
}

static mut METHODS: [ffi::PyMethodDef; 8] = [
    py::method_fast(
        c"acquire",
        lock_acquire,
        c"acquire($self, blocking=True, timeout=-1)\n--\n\n\
Take the lock; whether it was taken.\n\n\
If blocking is true, wait for it, at most timeout seconds if that is not -1. Otherwise give False at once if it is held.",
    ),
    py::method_no_args(
        c"release",
        lock_release,
        c"release($self)\n--\n\nGive the lock back, whoever took it. Raises RuntimeError if nobody holds it.",
    ),
    py::method_no_args(c"locked", lock_locked, c"locked($self)\n--\n\nWhether somebody holds the lock."),
    py::method_no_args(c"__enter__", lock_enter, c"Take the lock."),
    py::method_fast(c"__exit__", lock_exit, c"Give the lock back."),
    py::method_no_args(c"_at_fork_reinit", lock_at_fork_reinit, c"Free the lock in a forked child."),
    py::method_no_args(c"__reduce__", handle::reduce::<SharedLock>, c"Pickle the lock by its id."),
    py::METHODS_END,
];

/// Makes the type `Lock`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Lock()\n--\n\n\
A mutual exclusion lock shared by threads and interpreters; threading.Lock in every method.\n\n\
A lock may be sent to other interpreters, in a queue's items and as an argument.";
    let repr = ffi::PyType_Slot { slot: ffi::Py_tp_repr, pfunc: lock_repr as *mut c_void };
    let methods = (&raw mut METHODS).cast();
    handle::make_type::<SharedLock>(module, c"multigil.Lock", doc, new_lock, methods, null_mut(), &[repr])
}
