//! `RLock`: `threading.RLock` in every method, between threads and interpreters.

use core::ffi::{c_ulong, c_void};
use std::ffi::CString;

use multigil::error::ReacquireError;
use multigil::lock::RLock;
use multigil::object::SharedRLock;
use pyo3::ffi;

use crate::handle::{self, HandleObject, Watched, owner};
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::State;
use crate::wait::{Subject, Willing};
use crate::{alarm, errors, fork, lock};

type Object = HandleObject<SharedRLock>;

pub(crate) unsafe fn acquire(object: *mut ffi::PyObject, willing: Willing) -> Result<bool> {
    let (state, lock) = Object::of(object);
    let me = owner(lock);
    match (lock.try_acquire(me), willing) {
        (Ok(true), _) => Ok(true),
        (Ok(false), Willing::No) if handle::finds_dead(lock) => acquire(object, Willing::No),
        (Ok(false), Willing::No) => Ok(alarm::found(object, false)),
        (Ok(false), Willing::Until(deadline)) => {
            let taken = lock::wait_for(state, Subject::of(lock), lock.lock(), deadline)?;
            if taken {
                lock.was_taken(1);
            }
            Ok(alarm::found(object, taken))
        }
        (Err(ReacquireError::TooManyAcquires(error)), _) => raise(ffi::PyExc_OverflowError, &error.to_string()),
        (Err(ReacquireError::OwnerDied(died)), _) => errors::owner_died(state, died),
    }
}

pub(crate) unsafe fn release(object: *mut ffi::PyObject) -> Result<()> {
    let lock = Object::of(object).1;
    lock.release(owner(lock), lock.region().bell()).or_else(|error| raise(ffi::PyExc_RuntimeError, &error.to_string()))
}

unsafe extern "C" fn rlock_acquire(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| acquire(object, lock::willing(Arguments::new(values, count, names))?))
}

unsafe extern "C" fn rlock_release(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| release(object))
}

unsafe extern "C" fn rlock_locked(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(is_locked(object)))
}

unsafe extern "C" fn rlock_enter(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| acquire(object, Willing::Until(None)))
}

unsafe extern "C" fn rlock_exit(
    object: *mut ffi::PyObject,
    _: *const *mut ffi::PyObject,
    _: ffi::Py_ssize_t,
    _: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| release(object))
}

pub(crate) unsafe fn is_locked(object: *mut ffi::PyObject) -> bool {
    Object::of(object).1.lock().is_locked()
}

/// Whether the calling thread holds the lock.
pub(crate) unsafe fn is_owned(object: *mut ffi::PyObject) -> bool {
    let lock = Object::of(object).1;
    lock.is_owned(owner(lock))
}

unsafe extern "C" fn rlock_is_owned(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(is_owned(object)))
}

unsafe extern "C" fn recursion_count(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let lock = Object::of(object).1;
        let count = if lock.is_owned(owner(lock)) { lock.count() } else { 0 };
        Owned::from_raw(ffi::PyLong_FromUnsignedLong(count.into()))
    })
}

/// Gives the lock back; how often the calling thread had taken it.
pub(crate) unsafe fn give_back(object: *mut ffi::PyObject) -> Result<u32> {
    let lock = Object::of(object).1;
    let given_back = lock.release_save(owner(lock), lock.region().bell());
    given_back.or_else(|error| raise(ffi::PyExc_RuntimeError, &error.to_string()))
}

/// Takes the lock so often; an exception leaves only when it is taken.
pub(crate) unsafe fn restore(object: *mut ffi::PyObject, count: u32) -> Result<()> {
    let (state, lock) = Object::of(object);
    let attempt = lock.try_restore(owner(lock), count);
    let result = lock::insist(state, Subject::of(lock), lock.lock(), attempt);
    lock.was_taken(count);
    result
}

/// Gives `(count, owner)`, as `threading`'s.
unsafe extern "C" fn release_save(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let me = owner(Object::of(object).1);
        Owned::from_raw(ffi::Py_BuildValue(c"II".as_ptr(), give_back(object)?, me.thread))
    })
}

/// Takes what [`release_save`] gave. The lock is the calling thread's then, whoever had it: nobody else could release it.
unsafe extern "C" fn acquire_restore(object: *mut ffi::PyObject, arguments: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let (mut count, mut saved_owner): (ffi::Py_ssize_t, c_ulong) = (0, 0);
        let format = c"(nk):_acquire_restore";
        if ffi::PyArg_ParseTuple(arguments, format.as_ptr(), &raw mut count, &raw mut saved_owner) == 0 {
            return Err(Raised);
        }
        match u32::try_from(count) {
            Ok(count @ 1..) => restore(object, count),
            _ => raise(ffi::PyExc_ValueError, &format!("an RLock cannot be acquired {count} times")),
        }
    })
}

/// As that of `Lock`.
unsafe extern "C" fn at_fork_reinit(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let lock = Object::of(object).1;
        if fork::is_child() {
            return handle::renew(object, lock.region().create_shared::<RLock>(lock.owner(), |_| {}));
        }
        if let Some(owner) = lock.lock().owner() {
            let _ = lock.release_save(owner, lock.region().bell());
        }
        Ok(())
    })
}

/// To `wait_any`, it is ready when the one who waits would get it.
pub(crate) unsafe fn watch(object: *mut ffi::PyObject) -> Watched {
    let lock = Object::of(object).1;
    Watched { thing: Box::new(lock.for_owner(owner(lock))), place: Some(handle::place(lock)) }
}

unsafe extern "C" fn rlock_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let lock = Object::of(object).1;
        let held = lock.lock().owner();
        let (owner, count) = held.map_or((0, 0), |owner| (owner.thread, lock.count()));
        let more = CString::new(format!("owner={owner} count={count} ")).unwrap_or_default();
        lock::repr(object, held.is_some(), &more)
    })
}

unsafe extern "C" fn get_owner(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        let (state, lock) = Object::of(object);
        lock::describe_owner(state, lock.region(), lock.lock().owner())
    })
}

unsafe extern "C" fn new_rlock(
    class: *mut ffi::PyTypeObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let state = crate::state_of_type(class)?;
        py::check_no_arguments("RLock", class, &state.objects.rlock_type, arguments, keywords)?;
        create(state, class)
    })
}

/// Makes an RLock of a class.
pub(crate) unsafe fn create(state: &'static State, class: *mut ffi::PyTypeObject) -> Result<Owned> {
    let place = state.here();
    handle::wrap_made(state, class, place.region.create_shared::<RLock>(place.me, |_| {}))
}

static mut METHODS: [ffi::PyMethodDef; 13] = [
    alarm::FILENO,
    py::method_fast(
        c"acquire",
        rlock_acquire,
        c"acquire($self, blocking=True, timeout=-1)\n--\n\n\
Take the lock, once more if this thread holds it; whether it was taken.\n\n\
If blocking is true, wait for it, at most timeout seconds if that is not -1. Otherwise give False at once if another\n\
thread holds it. Raises OwnerDied, once, if the process died that held it; it is free then, and was not taken.",
    ),
    py::method_no_args(
        c"release",
        rlock_release,
        c"release($self)\n--\n\n\
Give the lock back once; it is free when it was given back as often as taken.\n\n\
Raises RuntimeError if this thread does not hold it.",
    ),
    py::method_no_args(c"locked", rlock_locked, c"locked($self)\n--\n\nWhether somebody holds the lock."),
    py::method_no_args(c"__enter__", rlock_enter, c"Take the lock."),
    py::method_fast(c"__exit__", rlock_exit, c"Give the lock back once."),
    py::method_no_args(c"_is_owned", rlock_is_owned, c"_is_owned($self)\n--\n\nWhether this thread holds the lock."),
    py::method_no_args(
        c"_recursion_count",
        recursion_count,
        c"_recursion_count($self)\n--\n\nHow often this thread has taken the lock.",
    ),
    py::method_no_args(
        c"_release_save",
        release_save,
        c"_release_save($self)\n--\n\nGive the lock back however often this thread has taken it.",
    ),
    py::method_tuple(
        c"_acquire_restore",
        acquire_restore,
        c"_acquire_restore($self, state, /)\n--\n\nTake the lock as often as _release_save() gave it back.",
    ),
    py::method_no_args(c"_at_fork_reinit", at_fork_reinit, c"In a forked child, become a free lock of its own."),
    py::method_no_args(c"__reduce__", handle::reduce::<SharedRLock>, c"Pickle the lock by its id."),
    py::METHODS_END,
];

static mut ATTRIBUTES: [ffi::PyGetSetDef; 2] = [lock::owner_attribute(get_owner), py::ATTRIBUTES_END];

/// Makes the type `RLock`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"RLock()\n--\n\n\
A lock that the thread which holds it may take again, shared by threads and interpreters; threading.RLock in every\n\
method.\n\n\
A lock may be sent to other interpreters, in a queue's items and as an argument.";
    let repr = ffi::PyType_Slot { slot: ffi::Py_tp_repr, pfunc: rlock_repr as *mut c_void };
    let (methods, attributes) = ((&raw mut METHODS).cast(), (&raw mut ATTRIBUTES).cast());
    handle::make_type::<SharedRLock>(module, c"multigil.RLock", doc, new_rlock, methods, attributes, &[repr])
}
