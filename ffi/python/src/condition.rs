//! `Condition`: `threading.Condition` in every method, between threads and interpreters.
//!
//! The lock is the condition's companion: an object of its own that travels with it. What a `Lock` or an `RLock` does is
//! called straight away. Anything else, a subclass of ours too, is asked by its methods, as `threading` does.

use core::ffi::{CStr, c_int, c_void};
use std::time::Instant;

use multigil::condition::Condition;
use multigil::error::WaitError;
use multigil::object::SharedCondition;
use pyo3::ffi;

use crate::handle::{self, HandleObject, owner};
use crate::py::{self, Arguments, Owned, Raised, Result, check, raise};
use crate::state::State;
use crate::wait::{self, Subject};
use crate::{errors, fork, lock, rlock};

type Object = HandleObject<SharedCondition>;

/// A condition's lock.
enum Guard {
    Lock(Owned),
    RLock(Owned),
    Other(Owned),
}

impl Guard {
    /// The lock itself.
    fn into_object(self) -> Owned {
        let (Guard::Lock(lock) | Guard::RLock(lock) | Guard::Other(lock)) = self;
        lock
    }

    unsafe fn of(object: *mut ffi::PyObject) -> Result<Guard> {
        let Some(lock) = Object::companion(object) else {
            return raise(ffi::PyExc_RuntimeError, "Condition.__init__() not called");
        };
        let (state, class) = (Object::of(object).0, ffi::Py_TYPE(lock.as_ptr()).cast());
        Ok(if class == state.objects.lock_type.get() {
            Guard::Lock(lock)
        } else if class == state.objects.rlock_type.get() {
            Guard::RLock(lock)
        } else {
            Guard::Other(lock)
        })
    }

    unsafe fn acquire(&self, method: &CStr, arguments: Arguments) -> Result<Owned> {
        Ok(Owned::bool(match self {
            Guard::Lock(lock) => lock::acquire(lock.as_ptr(), lock::willing(arguments)?)?,
            Guard::RLock(lock) => rlock::acquire(lock.as_ptr(), lock::willing(arguments)?)?,
            Guard::Other(lock) => return arguments.call(&lock.attribute(method)?),
        }))
    }

    unsafe fn release(&self, method: &CStr, arguments: Arguments) -> Result<Owned> {
        match self {
            Guard::Lock(lock) => lock::release(lock.as_ptr())?,
            Guard::RLock(lock) => rlock::release(lock.as_ptr())?,
            Guard::Other(lock) => return arguments.call(&lock.attribute(method)?),
        }
        Ok(Owned::none())
    }

    unsafe fn locked(&self) -> Result<Owned> {
        Ok(Owned::bool(match self {
            Guard::Lock(lock) => lock::is_locked(lock.as_ptr()),
            Guard::RLock(lock) => rlock::is_locked(lock.as_ptr()),
            Guard::Other(lock) => return lock.attribute(c"locked")?.call(&[]),
        }))
    }

    /// Whether the calling thread holds the lock; of a lock that does not know by whom it is held, whether anybody does.
    unsafe fn is_owned(&self) -> Result<bool> {
        match self {
            Guard::Lock(lock) => Ok(lock::is_locked(lock.as_ptr())),
            Guard::RLock(lock) => Ok(rlock::is_owned(lock.as_ptr())),
            Guard::Other(lock) => {
                if let Some(is_owned) = lock.optional_attribute(c"_is_owned")? {
                    return py::truth(is_owned.call(&[])?.as_ptr(), false);
                }
                let was_free = lock.attribute(c"acquire")?.call(&[ffi::Py_False()])?;
                if !py::truth(was_free.as_ptr(), false)? {
                    return Ok(true);
                }
                lock.attribute(c"release")?.call(&[])?;
                Ok(false)
            }
        }
    }

    /// Runs `body` while the lock is given back, however often the calling thread took it. An exception of `body` leaves
    /// only when the lock is taken again; of one that is not ours, when its own functions for this have ended.
    unsafe fn while_released<T>(&self, body: impl FnOnce() -> Result<T>) -> Result<T> {
        match self {
            Guard::Lock(lock) => {
                lock::release(lock.as_ptr())?;
                py::finally(body(), || lock::restore(lock.as_ptr()))
            }
            Guard::RLock(lock) => {
                let count = rlock::give_back(lock.as_ptr())?;
                py::finally(body(), || rlock::restore(lock.as_ptr(), count))
            }
            Guard::Other(lock) => {
                let saved = release_save(lock)?;
                py::finally(body(), || acquire_restore(lock, saved.as_ptr()))
            }
        }
    }
}

/// Gives a lock back by its `_release_save`, or its `release` if it has no such method.
unsafe fn release_save(lock: &Owned) -> Result<Owned> {
    match lock.optional_attribute(c"_release_save")? {
        Some(release_save) => release_save.call(&[]),
        None => lock.attribute(c"release")?.call(&[]).map(|_| Owned::none()),
    }
}

/// Takes a lock back by its `_acquire_restore`, or its `acquire` if it has no such method.
unsafe fn acquire_restore(lock: &Owned, saved: *mut ffi::PyObject) -> Result<()> {
    match lock.optional_attribute(c"_acquire_restore")? {
        Some(acquire_restore) => acquire_restore.call(&[saved]).map(drop),
        None => lock.attribute(c"acquire")?.call(&[]).map(drop),
    }
}

/// Waits for a call; whether there was one until the lock was taken back.
unsafe fn wait(object: *mut ffi::PyObject, timeout: *mut ffi::PyObject) -> Result<bool> {
    let (state, condition) = Object::of(object);
    let guard = Guard::of(object)?;
    if !guard.is_owned()? {
        return raise(ffi::PyExc_RuntimeError, "cannot wait on un-acquired lock");
    }
    let deadline = wait::join_timeout(timeout)?;
    let sitting = match condition.sit(condition.region(), owner(condition)) {
        Ok(sitting) => sitting,
        Err(error) => return errors::out_of_memory(error),
    };
    let waited = guard.while_released(|| {
        wait::wait_or_raise(
            state,
            Subject::of(condition),
            deadline,
            |patience| sitting.wait(patience),
            |error| *error == WaitError::Interrupted,
        )
    });
    let waited = waited.and_then(|_| check(ffi::PyErr_CheckSignals()));
    match (waited, condition.leave(sitting)) {
        (Ok(_), called) => Ok(called.is_some()),
        (Err(Raised), called) => {
            // No call is lost on one who raises.
            called.into_iter().for_each(|called| condition.pass_on(condition.region(), called));
            Err(Raised)
        }
    }
}

unsafe fn notify(object: *mut ffi::PyObject, count: u32) -> Result<()> {
    let condition = Object::of(object).1;
    if !Guard::of(object)?.is_owned()? {
        return raise(ffi::PyExc_RuntimeError, "cannot notify on un-acquired lock");
    }
    match count {
        u32::MAX => condition.notify_all(condition.region()),
        count => drop(condition.notify(condition.region(), count)),
    }
    Ok(())
}

unsafe extern "C" fn condition_acquire(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| Guard::of(object)?.acquire(c"acquire", Arguments::new(values, count, names)))
}

unsafe extern "C" fn condition_release(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| Guard::of(object)?.release(c"release", Arguments::NONE))
}

unsafe extern "C" fn condition_enter(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| Guard::of(object)?.acquire(c"__enter__", Arguments::NONE))
}

unsafe extern "C" fn condition_exit(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| Guard::of(object)?.release(c"__exit__", Arguments::new(values, count, names)))
}

unsafe extern "C" fn condition_locked(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| Guard::of(object)?.locked())
}

unsafe extern "C" fn is_owned(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_bool(|| Guard::of(object)?.is_owned())
}

unsafe extern "C" fn condition_release_save(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| release_save(&Guard::of(object)?.into_object()))
}

unsafe extern "C" fn condition_acquire_restore(
    object: *mut ffi::PyObject,
    saved: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| acquire_restore(&Guard::of(object)?.into_object(), saved))
}

/// As that of `Lock`: in a forked child, the condition and its lock become others, where nobody waits.
unsafe extern "C" fn at_fork_reinit(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let lock = Guard::of(object)?.into_object();
        lock.attribute(c"_at_fork_reinit")?.call(&[])?;
        let condition = Object::of(object).1;
        if fork::is_child() {
            return handle::renew(object, condition.region().create_shared::<Condition>(condition.owner(), |_| {}));
        }
        condition.forget_waiters(condition.region());
        Ok(())
    })
}

unsafe extern "C" fn condition_wait(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_bool(|| {
        let [timeout] = Arguments::new(values, count, names).parse("wait", [c"timeout"], 0)?;
        wait(object, timeout)
    })
}

/// Waits by the object's own `wait`, which a subclass may have changed, until what `predicate` gives is true.
unsafe extern "C" fn wait_for(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard(|| {
        let [predicate, timeout] =
            Arguments::new(values, count, names).parse("wait_for", [c"predicate", c"timeout"], 1)?;
        let (object, predicate) = (Owned::from_borrowed(object), Owned::from_borrowed(predicate));
        let mut result = predicate.call(&[])?;
        if py::truth(result.as_ptr(), false)? {
            return Ok(result);
        }
        // The first wait is made even if there is no time for it.
        let deadline = wait::join_timeout(timeout)?;
        let mut left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        loop {
            let left_object = match left {
                None => Owned::none(),
                Some(left) => Owned::from_raw(ffi::PyFloat_FromDouble(left.as_secs_f64()))?,
            };
            object.attribute(c"wait")?.call(&[left_object.as_ptr()])?;
            result = predicate.call(&[])?;
            left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if py::truth(result.as_ptr(), false)? || left.is_some_and(|left| left.is_zero()) {
                return Ok(result);
            }
        }
    })
}

unsafe extern "C" fn condition_notify(
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    py::guard_none(|| {
        let [n] = Arguments::new(values, count, names).parse("notify", [c"n"], 0)?;
        let n = if n.is_null() { 1 } else { py::integer(n)? };
        notify(object, n.clamp(0, u32::MAX.into()) as u32)
    })
}

unsafe extern "C" fn notify_all(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard_none(|| notify(object, u32::MAX))
}

unsafe extern "C" fn notify_all_deprecated(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let text = c"notifyAll() is deprecated, use notify_all() instead";
        check(ffi::PyErr_WarnEx(ffi::PyExc_DeprecationWarning, text.as_ptr(), 1))?;
        Owned::from_borrowed(object).attribute(c"notify_all")?.call(&[])
    })
}

unsafe extern "C" fn condition_repr(object: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let lock = Guard::of(object)?.into_object();
        let condition = Object::of(object).1;
        let waiters = condition.waiters().count(condition.region());
        Owned::from_raw(ffi::PyUnicode_FromFormat(c"<Condition(%S, %zu)>".as_ptr(), lock.as_ptr(), waiters))
    })
}

/// A lock that is not ours would be another one in another interpreter.
unsafe extern "C" fn condition_reduce(object: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    py::guard(|| {
        let lock = Guard::of(object)?.into_object();
        let state: &State = Object::of(object).0;
        if handle::is_shared(state, lock.as_ptr()) {
            return handle::reduced::<SharedCondition>(object, Some(lock));
        }
        let text = c"a Condition can leave its interpreter only with a lock of multigil, not with %R";
        ffi::PyErr_Format(state.object(&state.objects.not_shareable)?.as_ptr(), text.as_ptr(), lock.as_ptr());
        Err(Raised)
    })
}

unsafe extern "C" fn initialize(
    object: *mut ffi::PyObject,
    arguments: *mut ffi::PyObject,
    keywords: *mut ffi::PyObject,
) -> c_int {
    py::guard_status(|| {
        let state = Object::of(object).0;
        let [lock] = py::with_arguments(arguments, keywords, |arguments| arguments.parse("Condition", [c"lock"], 0))?;
        let lock = if lock.is_null() || lock == ffi::Py_None() {
            rlock::create(state, state.object(&state.objects.rlock_type)?.as_ptr().cast())?
        } else {
            let lock = Owned::from_borrowed(lock);
            lock.attribute(c"acquire")?;
            lock.attribute(c"release")?;
            lock
        };
        Object::set_companion(object, Some(lock));
        Ok(())
    })
}

unsafe extern "C" fn get_lock(object: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    py::guard(|| Guard::of(object).map(Guard::into_object))
}

static mut METHODS: [ffi::PyMethodDef; 16] = [
    py::method_fast(
        c"acquire",
        condition_acquire,
        c"acquire($self, blocking=True, timeout=-1)\n--\n\nTake the lock, as its acquire() does.",
    ),
    py::method_no_args(
        c"release",
        condition_release,
        c"release($self)\n--\n\nGive the lock back, as its release() does.",
    ),
    py::method_no_args(c"locked", condition_locked, c"locked($self)\n--\n\nWhether somebody holds the lock."),
    py::method_no_args(c"__enter__", condition_enter, c"Take the lock."),
    py::method_fast(c"__exit__", condition_exit, c"Give the lock back."),
    py::method_fast(
        c"wait",
        condition_wait,
        c"wait($self, timeout=None)\n--\n\n\
Give the lock back, wait until notified, at most timeout seconds if that is not None, and take the lock again.\n\n\
Gives whether the wait was ended by a notification. Raises RuntimeError if the lock is not held. Raises OwnerDied if the\n\
process died that held the lock meanwhile; the lock is held then, as after any exception.",
    ),
    py::method_fast(
        c"wait_for",
        wait_for,
        c"wait_for($self, predicate, timeout=None)\n--\n\n\
Wait until predicate() is true, at most timeout seconds if that is not None; what it gave last.",
    ),
    py::method_fast(
        c"notify",
        condition_notify,
        c"notify($self, n=1)\n--\n\n\
Wake the n that have waited longest, or as many as wait. Raises RuntimeError if the lock is not held.\n\n\
A notification is not lost on one whose wait raises at that moment: it goes to another one who waited.",
    ),
    py::method_no_args(
        c"notify_all",
        notify_all,
        c"notify_all($self)\n--\n\nWake all who wait. Raises RuntimeError if the lock is not held.",
    ),
    py::method_no_args(
        c"notifyAll",
        notify_all_deprecated,
        c"notifyAll($self)\n--\n\nWake all who wait. Deprecated: use notify_all().",
    ),
    py::method_no_args(c"_is_owned", is_owned, c"_is_owned($self)\n--\n\nWhether this thread holds the lock."),
    py::method_no_args(
        c"_release_save",
        condition_release_save,
        c"_release_save($self)\n--\n\nGive the lock back however often this thread has taken it.",
    ),
    py::method_one(
        c"_acquire_restore",
        condition_acquire_restore,
        c"_acquire_restore($self, state, /)\n--\n\nTake the lock as often as _release_save() gave it back.",
    ),
    py::method_no_args(c"_at_fork_reinit", at_fork_reinit, c"Free the lock and forget all waiters in a forked child."),
    py::method_no_args(c"__reduce__", condition_reduce, c"Pickle the condition by its id, and its lock."),
    py::METHODS_END,
];

static mut ATTRIBUTES: [ffi::PyGetSetDef; 2] = [
    ffi::PyGetSetDef {
        name: c"_lock".as_ptr(), // no part of the documented interface, but threading's have it, and programs use it
        get: Some(get_lock),
        set: None,
        doc: core::ptr::null(),
        closure: core::ptr::null_mut(),
    },
    py::ATTRIBUTES_END,
];

/// Makes the type `Condition`.
pub(crate) unsafe fn make_type(module: *mut ffi::PyObject) -> Result<Owned> {
    let doc = c"Condition(lock=None)\n--\n\n\
Where those who hold a lock wait until others notify them, threads and interpreters; threading.Condition in every\n\
method.\n\n\
lock is an RLock of its own if it is None. A condition may be sent to other interpreters, in a queue's items and as an\n\
argument, together with its lock, if that is one of multigil's.";
    let slots = [
        ffi::PyType_Slot { slot: ffi::Py_tp_init, pfunc: initialize as *mut c_void },
        ffi::PyType_Slot { slot: ffi::Py_tp_repr, pfunc: condition_repr as *mut c_void },
    ];
    let (methods, attributes) = ((&raw mut METHODS).cast(), (&raw mut ATTRIBUTES).cast());
    handle::make_type::<SharedCondition>(
        module,
        c"multigil.Condition",
        doc,
        handle::new::<Condition>,
        methods,
        attributes,
        &slots,
    )
}
