//! `Lock`: `threading.Lock` in every method, between threads and interpreters; and what all locks have in common.

use core::ffi::{CStr, c_void};
use core::ptr::null_mut;
use std::time::Instant;

use multigil::error::{OwnerDied, WaitError};
use multigil::lock::{Lock, Owner};
use multigil::object::{Region, SharedLock};
use pyo3::ffi;

use crate::handle::{self, HandleObject, owner, this_thread};
use crate::py::{self, Arguments, Owned, Raised, Result, raise};
use crate::state::{self, State};
use crate::wait::{self, Subject, Willing};
use crate::{alarm, asyncio, errors, fork};

type Object = HandleObject<SharedLock>;

pub(crate) unsafe fn acquire(object: *mut ffi::PyObject, willing: Willing) -> Result<bool> {
    let (state, lock) = Object::of(object);
    let me = owner(lock);
    match (lock.try_acquire(me), willing) {
        (Ok(true), _) => Ok(true),
        (Ok(false), Willing::No) if handle::finds_dead(lock) => acquire(object, Willing::No),
        (Ok(false), Willing::No) => Ok(alarm::found(object, false)),
        (Ok(false), Willing::Until(deadline)) => {
            Ok(alarm::found(object, wait_for(state, Subject::of(lock), lock, deadline)?))
        }
        (Err(died), _) => errors::owner_died(state, died),
    }
}

/// Waits for a lock that somebody holds; whether it was taken. Raises OwnerDied, and it was not, if its owner died.
///
/// It is taken without the GIL only from another interpreter's thread, which goes on in no time. A thread of this one
/// may need the GIL to give the lock back, and whoever was woken may have to wait for the GIL: others had better take
/// the lock meanwhile.
pub(crate) unsafe fn wait_for(state: &State, subject: Subject, lock: &Lock, deadline: Option<Instant>) -> Result<bool> {
    let Subject::Object(_, _, place) = subject else { unreachable!("locks are objects") };
    let me = this_thread(place.me);
    let is_elsewhere = || lock.owner().is_some_and(|owner| owner.peer != me.peer);
    let mut waiter = lock.waiter(me);
    loop {
        if is_elsewhere() && lock.try_acquire_soon(me).or_else(|died| errors::owner_died(state, died))? {
            return Ok(true);
        }
        let mut spun = Ok(false);
        let waited = wait::wait_or_raise(
            state,
            subject,
            deadline,
            |patience| {
                spun = if is_elsewhere() { waiter.spin(patience) } else { Ok(false) };
                if spun == Ok(false) { waiter.sleep(patience) } else { Ok(()) }
            },
            |error| *error == WaitError::Interrupted,
        );
        let Ok(slept) = waited else {
            return match spun {
                Ok(taken) => {
                    if taken {
                        let _ = lock.release(place.region.bell());
                    }
                    Err(Raised)
                }
                // Nobody else will be told of it.
                Err(died) => {
                    let raised = Owned::from_raw(ffi::PyErr_GetRaisedException())?;
                    py::finally(errors::owner_died(state, died), || {
                        ffi::PyErr_SetRaisedException(raised.into_raw());
                        Err(Raised)
                    })
                }
            };
        };
        if spun == Ok(false) {
            spun = waiter.try_acquire();
        }
        match (spun, slept) {
            (Ok(true), _) => return Ok(true),
            (Ok(false), Ok(())) => {}
            (Ok(false), Err(_)) => return Ok(false),
            (Err(died), _) => return errors::owner_died(state, died),
        }
    }
}

/// Takes a lock, after an attempt that had this result. Exceptions leave when it is taken, and it stays so.
pub(crate) unsafe fn insist(
    state: &State,
    subject: Subject,
    lock: &Lock,
    attempt: core::result::Result<bool, OwnerDied>,
) -> Result<()> {
    let mut taken = attempt == Ok(true);
    let mut result = attempt.map(drop).or_else(|died| errors::owner_died(state, died));
    while !taken {
        result = py::finally(result, || {
            taken = wait_for(state, subject, lock, None)?;
            Ok(())
        });
    }
    result
}

pub(crate) unsafe fn release(object: *mut ffi::PyObject) -> Result<()> {
    let lock = Object::of(object).1;
    lock.release(lock.region().bell()).or_else(|error| raise(ffi::PyExc_RuntimeError, &error.to_string()))
}

/// Takes the lock; an exception leaves only when it is taken.
pub(crate) unsafe fn restore(object: *mut ffi::PyObject) -> Result<()> {
    let (state, lock) = Object::of(object);
    insist(state, Subject::of(lock), lock, lock.try_acquire(owner(lock)))
}

pub(crate) unsafe fn is_locked(object: *mut ffi::PyObject) -> bool {
    Object::of(object).1.is_locked()
}

/// How willing a call of a lock's `acquire` is to wait.
#[inline(always)]
pub(crate) unsafe fn willing(arguments: Arguments) -> Result<Willing> {
    if arguments.is_empty() {
        return Ok(Willing::Until(None));
    }
    let [blocking, timeout] = arguments.parse("acquire", [c"blocking", c"timeout"], 0)?;
    wait::lock_timeout(blocking, timeout)
}

unsafe extern "C" fn lock_acquire(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| acquire(object, willing(Arguments::new(values, count, names))?))
}

unsafe extern "C" fn lock_release(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| release(object))
}

unsafe extern "C" fn lock_locked(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| Ok(is_locked(object)))
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

/// `threading` calls this in a forked child, for locks whose holders may have stayed with the parent: there, the object
/// becomes another lock, since this one is still the parent's.
unsafe extern "C" fn lock_at_fork_reinit(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let lock = Object::of(object).1;
        if fork::is_child() {
            return handle::renew(object, lock.region().create_shared::<Lock>(lock.owner(), |_| {}));
        }
        let _ = lock.release(lock.region().bell());
        Ok(())
    })
}

/// `<locked module.Name object at 0x…>`, as `threading` writes it; `more` stands before "at".
pub(crate) unsafe fn repr(object: *mut ffi::PyObject, is_locked: bool, more: &CStr) -> Result<Owned> {
    let class = ffi::Py_TYPE(object);
    let status = if is_locked { c"locked" } else { c"unlocked" };
    let name = Owned::from_raw(ffi::PyType_GetQualName(class))?;
    let module = Owned::from_raw(ffi::PyObject_GetAttrString(class.cast(), c"__module__".as_ptr()))?;
    Owned::from_raw(ffi::PyUnicode_FromFormat(
        c"<%s %S.%U object %sat %p>".as_ptr(),
        status.as_ptr(),
        module.as_ptr(),
        name.as_ptr(),
        more.as_ptr(),
        object,
    ))
}

unsafe extern "C" fn lock_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| repr(object, is_locked(object), c""))
}

/// The object of Python's that says who holds a lock: an [`Owner`], or None.
pub(crate) unsafe fn describe_owner(state: &State, region: &Region, owner: Option<Owner>) -> Result<Owned> {
    let Some(owner) = owner else { return Ok(Owned::none()) };
    let class = state.object(&state.objects.owner_type)?;
    let described = Owned::from_raw(ffi::PyStructSequence_New(class.as_ptr().cast()))?;
    let process = region.process(owner.peer);
    let fields = [state::interpreter_id(region, owner.peer), owner.thread.into(), process.into()];
    for (place, field) in fields.into_iter().enumerate() {
        let field = Owned::from_raw(ffi::PyLong_FromLongLong(field))?;
        ffi::PyStructSequence_SetItem(described.as_ptr(), place as ffi::Py_ssize_t, field.into_raw());
    }
    Ok(described)
}

/// Makes the type `Owner`.
pub(crate) unsafe fn make_owner_type() -> Result<Owned> {
    let field = |name: &'static CStr, doc: &'static CStr| ffi::PyStructSequence_Field {
        name: name.as_ptr().cast_mut(),
        doc: doc.as_ptr().cast_mut(),
    };
    let mut fields = [
        field(c"interpreter_id", c"Interpreter.id of its interpreter; -1 if that has ended or is in another process"),
        field(c"native_id", c"threading.get_native_id() in its thread"),
        field(c"process_id", c"os.getpid() in its process"),
        ffi::PyStructSequence_Field { name: null_mut(), doc: null_mut() },
    ];
    let mut description = ffi::PyStructSequence_Desc {
        name: c"multigil.Owner".as_ptr().cast_mut(),
        doc: c"Who holds a lock: the thread that acquired it.".as_ptr().cast_mut(),
        fields: fields.as_mut_ptr(),
        n_in_sequence: 2,
    };
    Owned::from_raw(ffi::PyStructSequence_NewType(&raw mut description).cast())
}

/// The attribute `owner` of a lock.
pub(crate) const fn owner_attribute(get: ffi::getter) -> ffi::PyGetSetDef {
    ffi::PyGetSetDef {
        name: c"owner".as_ptr(),
        get: Some(get),
        set: None,
        doc: c"The thread that holds the lock, as an Owner(interpreter_id, native_id); None if the lock is free."
            .as_ptr(),
        closure: null_mut(),
    }
}

unsafe extern "C" fn lock_owner(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| {
        let (state, lock) = Object::of(object);
        describe_owner(state, lock.region(), Lock::owner(lock))
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
        let place = state.here();
        handle::wrap_made(state, class, place.region.create_shared::<Lock>(place.me, |_| {}))
    })
}

static mut METHODS: [ffi::PyMethodDef; 15] = [
    py::method_fast(
        c"acquire",
        lock_acquire,
        c"acquire($self, blocking=True, timeout=-1)\n--\n\n\
Take the lock; whether it was taken.\n\n\
If blocking is true, wait for it, at most timeout seconds if that is not -1. Otherwise give False at once if it is held.\n\
Raises OwnerDied, once, if the process died that held it; it is free then, and was not taken.",
    ),
    py::method_no_args(
        c"release",
        lock_release,
        c"release($self)\n--\n\nGive the lock back, whoever took it. Raises RuntimeError if nobody holds it.",
    ),
    py::method_no_args(c"locked", lock_locked, c"locked($self)\n--\n\nWhether somebody holds the lock."),
    py::method_fast(
        c"acquire_lock",
        lock_acquire,
        c"acquire_lock($self, blocking=True, timeout=-1)\n--\n\nAn old name of acquire().",
    ),
    py::method_no_args(c"release_lock", lock_release, c"release_lock($self)\n--\n\nAn old name of release()."),
    py::method_no_args(c"locked_lock", lock_locked, c"locked_lock($self)\n--\n\nAn old name of locked()."),
    py::method_no_args(c"__enter__", lock_enter, c"Take the lock."),
    py::method_fast(c"__exit__", lock_exit, c"Give the lock back."),
    asyncio::AACQUIRE,
    asyncio::ENTER,
    asyncio::EXIT,
    alarm::FILENO,
    py::method_no_args(c"_at_fork_reinit", lock_at_fork_reinit, c"In a forked child, become a free lock of its own."),
    py::method_no_args(c"__reduce__", handle::reduce::<SharedLock>, c"Pickle the lock by its id."),
    py::METHODS_END,
];

static mut ATTRIBUTES: [ffi::PyGetSetDef; 2] = [owner_attribute(lock_owner), py::ATTRIBUTES_END];

/// Makes the type `Lock`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Lock()\n--\n\n\
A mutual exclusion lock shared by threads and interpreters; threading.Lock in every method.\n\n\
A lock may be sent to other interpreters, in a queue's items and as an argument.";
    let repr = ffi::PyType_Slot { slot: ffi::Py_tp_repr, pfunc: lock_repr as *mut c_void };
    let (methods, attributes) = ((&raw mut METHODS).cast(), (&raw mut ATTRIBUTES).cast());
    handle::make_type::<SharedLock>(module, c"multigil.Lock", doc, new_lock, methods, attributes, &[repr])
}
